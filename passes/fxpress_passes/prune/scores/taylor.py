"""|W * E[G]|: by how much the loss moves, to first order, without the weight."""

from __future__ import annotations

from torch import Tensor

from ..layers import Layer
from .facts import Facts


def taylor(layer: Layer, facts: Facts) -> Tensor:
    """Molchanov et al. 2019, eq. 8, of single weights."""
    return (facts.weight(layer) * facts.gradients(layer, "mean")).abs()
