"""|W|."""

from __future__ import annotations

from torch import Tensor

from ..layers import Layer
from .facts import Facts


def magnitude(layer: Layer, facts: Facts) -> Tensor:
    """Han et al. 2015, section 3; needs no data."""
    return facts.weight(layer).abs()
