"""Sensitivity by trying: the program runs with each choice alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from .asked import Asked
from .recorded import Recorded


def distance(asked: Asked) -> Mapping[str, float]:
    """KL to the float program's output (ZeroQ, row M196, equation 2), or half the squared difference, by the question's loss."""
    return _tried(asked, asked.distance)


def noise(asked: Asked) -> Mapping[str, float]:
    """Noise over signal of the output: 10 ** (-SQNR / 10)."""
    return _tried(asked, lambda original, other: (other - original).square().sum() / original.square().sum().clamp_min(1e-30))


def _tried(asked: Asked, between: Callable[[Tensor, Tensor], Tensor]) -> Mapping[str, float]:
    totals = dict.fromkeys((one.name for one in asked.perturbations), 0.0)
    for position, batch in enumerate(asked.batches):
        original = Recorded(asked.program, batch, {}).original
        recorded = Recorded(asked.program, batch, asked.base)
        for place, one in enumerate(asked.perturbations):
            totals[one.name] += float(between(original, recorded.changed(one.weights(), one.inputs)))
            asked.tell(position * len(asked.perturbations) + place + 1, len(asked.batches) * len(asked.perturbations))
    return {name: total / len(asked.batches) for name, total in totals.items()}
