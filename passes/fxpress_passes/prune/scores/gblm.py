"""|W| * ||X_j||_2 + alpha * |W| * ||G||_p, G over samples."""

from __future__ import annotations

from torch import Tensor

from ..layers import Layer
from .facts import Facts


def gblm(layer: Layer, facts: Facts) -> Tensor:
    """GBLM-Pruner (Das et al. 2023); p = 1 is the mean of |G| over samples, p = 2 the root of the mean of G^2."""
    weight = facts.weight(layer).abs()
    scores = weight * facts.norms(layer)
    if facts.alpha == 0:
        return scores
    norm = facts.gradients(layer, "absolute") if facts.p == 1 else facts.gradients(layer, "square").sqrt()
    return scores + facts.alpha * (weight * norm)
