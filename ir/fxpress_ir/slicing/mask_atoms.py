"""Program, atoms that stay ==> the same shapes, zeros in every weight where the other atoms are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..analysis.coupling import can_be_zero
from ..program import Program
from .plan import Plan, kept_atoms


def mask_atoms(program: Program, keep: Plan | Mapping[str, Sequence[int]]) -> Program:
    """What `slice_atoms` removes, zeroed: rows, columns, biases, norms' factors and means; variances and divisors stay.

    Where every group that shrinks is exact (`Group.exact`) the result computes what the sliced program computes.

    Args:
        keep, raises: as `slice_atoms`.
    """
    groups, leaving = kept_atoms(program, keep)
    edit = program.edit()
    for node in program.graph.find_nodes(op="get_attr"):
        name = str(node.target)
        if not can_be_zero(node, program):
            continue
        for position, atoms in enumerate(groups.tensors.get(name, ())):
            if atoms is not None and (gone := np.flatnonzero(np.isin(atoms, leaving))).size:
                tensor = edit.tensors[name].detach()
                edit.tensors[name] = tensor.index_fill(position, torch.from_numpy(gone).to(tensor.device), 0)
    return edit.finish()
