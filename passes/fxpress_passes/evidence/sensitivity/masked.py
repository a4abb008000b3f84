"""Sensitivity by zeroing random parts of a layer: how far outputs move for the energy that was taken (OHQ, row M206)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import torch

from ..calibration import Batch
from ..losses import perturbed
from ..tally import Tally
from .asked import Asked
from .kept import means

_SHARE, _DRAWS = 0.1, 4
"""Of a tensor's weights that one draw zeroes, and draws."""


def masked(asked: Asked) -> Mapping[str, float]:
    """sum over tensors of KL(M || M with a part of W zeroed) / ||zeroed part||^2 * ||dW||^2, the mean of draws.

    The paper's abstract names masks and the divergence on synthetic data, its formula is not public: the scaling by energy, so
    that bits compare, is this project's. Give distilled data as calibration for the paper's setting.
    """
    module, tensors, seed = asked.program.module, asked.program.tensors, asked.context.seed

    def costs(names: list[str], batch: Batch, _: Mapping[str, Tally]) -> Iterator[tuple[str, Tally]]:
        with torch.no_grad():
            original = perturbed(module, {}, batch)
            for name in names:
                weight, generator, total = tensors[name].detach(), _generator(seed, name), 0.0
                for _draw in range(_DRAWS):
                    zeroed = torch.rand(weight.shape, generator=generator) < _SHARE
                    energy = float(weight[zeroed].double().square().sum())
                    moved = float(asked.distance(original, perturbed(module, {name: weight.masked_fill(zeroed, 0)}, batch)))
                    total += moved / energy if energy else 0.0
                yield name, Tally(1, total / _DRAWS)

    slopes = means(asked, f"masked by {asked.distance_name}, seed {seed}", asked.touched, costs)
    return {
        one.name: sum(slopes[name] * float(change.double().square().sum()) for name, change in asked.changes(one).items())
        for one in asked.perturbations
    }


def _generator(seed: int, name: str) -> torch.Generator:
    """Masks are those of a tensor's name, the same on each batch, whatever else is asked."""
    return torch.Generator().manual_seed(int(hashlib.sha256(f"{seed} {name}".encode()).hexdigest()[:15], 16))
