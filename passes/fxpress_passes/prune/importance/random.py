"""A number drawn for each atom: what every other score has to beat."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .context import Asked


def random(asked: Asked) -> Mapping[str, Tensor]:
    """Uniform in [0, 1), by the pipeline's seed."""
    return {group.name: torch.rand(group.size, generator=asked.generator(group.name), dtype=torch.float64) for group in asked.groups}
