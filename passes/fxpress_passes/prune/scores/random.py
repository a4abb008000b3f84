"""A number drawn for each weight: what every other score has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from ..layers import Layer
from .facts import Facts


def random(layer: Layer, facts: Facts) -> Tensor:
    """Uniform in [0, 1), by the pipeline's seed; weights that are zero already go first."""
    weight = facts.weight(layer)
    return torch.rand(weight.shape, generator=facts.generator(layer), dtype=torch.float64).where(weight != 0, -1.0)
