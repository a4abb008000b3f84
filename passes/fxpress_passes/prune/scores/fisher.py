"""W^2 * E[G^2]: by how much the loss moves, to second order, with the diagonal of the Fisher information."""

from __future__ import annotations

from torch import Tensor

from ..layers import Layer
from .facts import Facts


def fisher(layer: Layer, facts: Facts) -> Tensor:
    """Theis et al. 2018, eq. 5, but for the factor of one half."""
    return facts.weight(layer).square() * facts.gradients(layer, "square")
