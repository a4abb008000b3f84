"""labels of a dimension's entries ==> for each entry the number of its atom in one group."""

from __future__ import annotations

import numpy as np
import torch
from fxpress_ir.analysis.coupling import Group, Groups
from numpy.typing import NDArray
from torch import Tensor


def places(labels: NDArray[np.int64], groups: Groups, group: Group) -> Tensor | None:
    """int64 [entries]: numbers of atoms, `group.size` for entries of other groups; None where all are of other groups."""
    numbers = {label: number for number, label in enumerate(groups.labels(group.name))}
    found = torch.tensor([numbers.get(label, group.size) for label in labels.tolist()], dtype=torch.int64)
    return found if bool((found < group.size).any()) else None
