"""Sensitivity by trying: the program runs with each choice alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..losses import perturbed
from .asked import Asked


def distance(asked: Asked) -> Mapping[str, float]:
    """KL to the float program's output (ZeroQ, row M196, equation 2), or half the squared difference, by the question's loss."""
    return _tried(asked, asked.distance)


def noise(asked: Asked) -> Mapping[str, float]:
    """Noise over signal of the output: 10 ** (-SQNR / 10)."""
    return _tried(asked, lambda original, other: (other - original).square().sum() / original.square().sum().clamp_min(1e-30))


def _tried(asked: Asked, between: Callable[[Tensor, Tensor], Tensor]) -> Mapping[str, float]:
    module, found = asked.program.module, {}
    with torch.no_grad():
        originals = [perturbed(module, {}, batch) for batch in asked.batches]
        for position, one in enumerate(asked.perturbations):
            weights = one.weights()
            costs = [float(between(own, perturbed(module, weights, batch))) for own, batch in zip(originals, asked.batches, strict=True)]
            found[one.name] = sum(costs) / len(costs)
            asked.tell(position + 1)
    return found
