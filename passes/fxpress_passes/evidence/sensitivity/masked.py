"""Sensitivity by zeroing random parts of a layer: how far outputs move for the energy that was taken (OHQ, row M206)."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..losses import perturbed
from .asked import Asked

_SHARE, _DRAWS = 0.1, 4
"""Of a tensor's weights that one draw zeroes, and draws."""


def masked(asked: Asked) -> Mapping[str, float]:
    """sum over tensors of KL(M || M with a part of W zeroed) / ||zeroed part||^2 * ||dW||^2, the mean of draws.

    The paper's abstract names masks and the divergence on synthetic data, its formula is not public: the scaling by energy, so
    that bits compare, is this project's. Give distilled data as calibration for the paper's setting.
    """
    module, tensors = asked.program.module, asked.program.tensors
    generator, slopes = torch.Generator().manual_seed(asked.context.seed), {}
    with torch.no_grad():
        originals = [perturbed(module, {}, batch) for batch in asked.batches]
        for name in asked.touched:
            weight, total = tensors[name].detach(), 0.0
            for _ in range(_DRAWS):
                zeroed = torch.rand(weight.shape, generator=generator) < _SHARE
                energy = float(weight[zeroed].double().square().sum())
                moved = [
                    float(asked.distance(own, perturbed(module, {name: weight.masked_fill(zeroed, 0)}, batch)))
                    for own, batch in zip(originals, asked.batches, strict=True)
                ]
                total += sum(moved) / len(moved) / energy if energy else 0.0
            slopes[name] = total / _DRAWS
    return {
        one.name: sum(slopes[name] * float(change.double().square().sum()) for name, change in asked.changes(one).items())
        for one in asked.perturbations
    }
