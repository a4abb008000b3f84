"""E|g| and E[g^2] / 2, g the loss's gradient by a factor on the atom: by how much the loss moves without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from fxpress_ir.errors import CalibrationError
from torch import Tensor

from ...evidence.gradients import samples
from .context import Asked
from .gates import Gates

SAMPLES = 128
"""Of calibration data that gradients are taken of."""


def taylor(asked: Asked) -> Mapping[str, Tensor]:
    """Molchanov et al. 2017, eq. 8: the first order, its magnitude averaged over samples."""
    return _moments(asked, lambda gradient: gradient.abs())


def fisher(asked: Asked) -> Mapping[str, Tensor]:
    """Theis et al. 2018, eq. 7: the second order, with the Fisher information of the factor."""
    return _moments(asked, lambda gradient: gradient.square() / 2)


def _moments(asked: Asked, moment: Callable[[Tensor], Tensor]) -> Mapping[str, Tensor]:
    gates = Gates(asked.program, asked.groups)
    if not gates.groups:
        return {}
    sums = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in gates.groups}
    factors = {group.name: torch.ones(group.size, requires_grad=True) for group in gates.groups}
    count = 0
    for sample in samples(asked.program, asked.context.evidence.calibration.batches(asked.program), SAMPLES):
        with torch.enable_grad():
            loss = asked.loss(gates.outputs(sample, factors), sample)
            if loss.numel() != 1 or not loss.requires_grad:
                raise CalibrationError("the loss is no scalar that depends on the weights", way_on="give one that is")
            gradients = torch.autograd.grad(loss.reshape(()), list(factors.values()), allow_unused=True)
        for total, gradient in zip(sums.values(), gradients, strict=True):
            total += 0 if gradient is None else moment(gradient.double())
        count += 1
    return {name: total / count for name, total in sums.items()}
