"""|W| * ||X_j||_2."""

from __future__ import annotations

from torch import Tensor

from ..layers import Layer
from .facts import Facts


def wanda(layer: Layer, facts: Facts) -> Tensor:
    """Sun et al. 2023, eq. 1."""
    return facts.weight(layer).abs() * facts.norms(layer)
