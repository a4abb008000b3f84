"""outputs of a program and of itself with other weights ==> a scalar that is least where nothing changed; needs no labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from fxpress_ir.errors import CalibrationError
from torch import Tensor
from torch.nn import functional

from .calibration import Batch
from .gradients import Loss, own_cross_entropy

Distance = Callable[[Tensor, Tensor], Tensor]
"""An output of the original and of the other, same shapes ==> a scalar, 0 where they are equal."""


def divergence(original: Tensor, other: Tensor) -> Tensor:
    """KL(softmax(original) || softmax(other)) along the last axis, in nats, the mean of all rows."""
    rows = original.shape[-1]
    parts = [functional.log_softmax(scores.reshape(-1, rows), -1) for scores in (original, other)]
    return functional.kl_div(parts[1], parts[0], log_target=True, reduction="batchmean")


def squares(original: Tensor, other: Tensor) -> Tensor:
    """Half the squared difference, summed over a sample's values, the mean of all samples."""
    return (other - original).square().sum() / (2 * max(1, original.shape[0] if original.dim() else 1))


DISTANCES: Mapping[str, Distance] = {"divergence": divergence, "squares": squares}


def fisher_coordinates(original: Tensor, move: Tensor) -> Tensor:
    """sqrt(p) (dy - p dy), p = softmax(y): half its squared length is the divergence to second order."""
    p = torch.softmax(original, -1)
    return p.sqrt() * (move - (p * move).sum(-1, keepdim=True))


Coordinates = Callable[[Tensor, Tensor], Tensor]
"""Rows of an output and small moves from them, both [n, scores] ==> of each row that of which half the squared length is its distance."""
COORDINATES: Mapping[str, Coordinates] = {"divergence": fisher_coordinates, "squares": lambda original, move: move}
"""By a distance's name, to second order; `squares` here are a mean of rows, not of samples."""


def own(distance: Distance) -> Loss:
    """The distance of a program's first floating-point output from itself, held fast: its gradient is 0 and its Hessian is
    Fisher's information (`divergence`) or J^T J (`squares`), J the outputs' derivatives, so that no eigenvalue is negative.
    """

    def loss(outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        found = first_float(outputs)
        return distance(found.detach(), found)

    return loss


LOSSES: Mapping[str, Loss] = {"divergence": own(divergence), "squares": own(squares), "cross-entropy": own_cross_entropy}
"""By name, as options of passes have it."""


def first_float(outputs: Sequence[Tensor]) -> Tensor:
    """The first floating-point output.

    Raises:
        CalibrationError: there is none.
    """
    found = next((output for output in outputs if output.is_floating_point()), None)
    if found is None:
        raise CalibrationError("no output is floating-point", way_on="measure before the borders turn to integers")
    return found if found.dim() else found.reshape(1)


def perturbed(module: torch.nn.Module, weights: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """A program's first floating-point output with other values for some of its tensors."""
    return first_float(torch.func.functional_call(module, dict(weights), batch))
