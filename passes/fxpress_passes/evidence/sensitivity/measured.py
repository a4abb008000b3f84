"""Sensitivity by trying: the program runs with each choice alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

from ..calibration import Batch
from ..tally import Tally
from .asked import Asked
from .kept import choice_keys, means, weights_key
from .recorded import Recorded


def distance(asked: Asked) -> Mapping[str, float]:
    """KL to the float program's output (ZeroQ, row M196, equation 2), or half the squared difference, by the question's loss."""
    return _tried(asked, f"distance by {asked.distance_name}", asked.distance)


def noise(asked: Asked) -> Mapping[str, float]:
    """Noise over signal of the output: 10 ** (-SQNR / 10)."""
    return _tried(asked, "noise", lambda original, other: (other - original).square().sum() / original.square().sum().clamp_min(1e-30))


def _tried(asked: Asked, what: str, between: Callable[[Tensor, Tensor], Tensor]) -> Mapping[str, float]:
    keys = choice_keys(asked)
    by_key = {keys[one.name]: one for one in asked.perturbations}

    def costs(wanted: list[str], batch: Batch, _: Mapping[str, Tally]) -> Iterator[tuple[str, Tally]]:
        original = Recorded(asked.program, batch, {}).original
        recorded = Recorded(asked.program, batch, asked.base)
        for key in wanted:
            one = by_key[key]
            yield key, Tally(1, float(between(original, recorded.changed(one.weights(), one.inputs))))

    found = means(asked, f"{what}, from {weights_key(asked.base)}", keys.values(), costs)
    return {name: found[key] for name, key in keys.items()}
