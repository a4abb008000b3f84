"""The number of atoms behind: the first of each group stay, as weights that were trained nested have them (MatFormer, M64)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .context import Asked


def order(asked: Asked) -> Mapping[str, Tensor]:
    """W[:m] and W[:, :m] are what is left of layers whose first m hidden units were trained to do alone (Devvrit et al. 2023, eq. 2)."""
    return {group.name: torch.arange(group.size, 0, -1, dtype=torch.float64) for group in asked.groups}
