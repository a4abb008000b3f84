"""program, samples, a loss ==> for each of its weights the mean of the loss's gradient, of its magnitude, or of its square."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from .calibration import Batch

Loss = Callable[[Sequence[Tensor], Batch], Tensor]
"""A program's outputs and the batch of inputs that gave them ==> a scalar."""
Statistic = Literal["mean", "absolute", "square"]


def own_cross_entropy(outputs: Sequence[Tensor], batch: Batch) -> Tensor:
    """Cross-entropy of the first floating-point output with its own argmax, classes along the last axis: needs no labels.

    Raises:
        CalibrationError: no output has floating-point scores.
    """
    scores = next((output for output in outputs if output.is_floating_point() and output.dim() > 1), None)
    if scores is None:
        raise CalibrationError("no output has scores along its last axis", way_on="give a loss of outputs and inputs")
    flat = scores.reshape(-1, scores.shape[-1])
    return functional.cross_entropy(flat, flat.detach().argmax(1))


class Gradients:
    """Adds up one statistic of a loss's gradient; memory holds one number a weight, and one gradient.

    Args:
        weights: names of the program's tensors, floating-point.
        statistic: ``mean`` of g (first order), ``absolute`` of \\|g\\| (p = 1), ``square`` of g^2 (Fisher's diagonal, p = 2).
    """

    def __init__(self, program: Program, weights: Collection[str], statistic: Statistic, loss: Loss = own_cross_entropy) -> None:
        self._program, self._loss, self._statistic = program, loss, statistic
        self._weights = {name: program.tensors[name].detach().clone().requires_grad_() for name in weights}
        self.sums = {name: torch.zeros_like(weight, requires_grad=False) for name, weight in self._weights.items()}
        self.samples = 0

    def observe(self, sample: Batch) -> None:
        """Fold one sample in: a batch of one for gradients by sample, or a larger one, whose mean gradient counts once.

        Raises:
            CalibrationError: the loss is no scalar, or its gradient is NaN or infinite.
        """
        with torch.enable_grad():
            loss = self._loss(functional_call(self._program.module, self._weights, sample), sample)
            if loss.numel() != 1 or not loss.requires_grad:
                raise CalibrationError("the loss is no scalar that depends on the weights", way_on="give one that is")
            gradients = torch.autograd.grad(loss.reshape(()), list(self._weights.values()), allow_unused=True)
        found = [torch.zeros_like(self.sums[name]) if g is None else g for name, g in zip(self.sums, gradients, strict=True)]
        for name, gradient in zip(self.sums, found, strict=True):
            if not bool(gradient.isfinite().all()):
                raise CalibrationError(
                    "the loss's gradient is NaN or infinite", where=name, way_on="check the model, the data and the loss"
                )
        for total, gradient in zip(self.sums.values(), found, strict=True):
            total += {"mean": gradient, "absolute": gradient.abs(), "square": gradient.square()}[self._statistic]
        self.samples += 1

    @property
    def found(self) -> Mapping[str, Tensor]:
        """The statistic by the weight's name, in its shape and dtype."""
        return {name: total / self.samples for name, total in self.sums.items()}

    def merge(self, other: Gradients) -> None:
        """Take in what another walk of the same program and statistic added up."""
        for name, total in other.sums.items():
            self.sums[name] += total
        self.samples += other.samples


def samples(program: Program, batches: Iterable[Batch], most: int) -> Iterator[Batch]:
    """The first `most` samples one by one; whole batches where the inputs share no dynamic first dimension."""
    first = {str(node.meta["val"].shape[0]) if node.meta["val"].dim() else "" for node in program.placeholders()}
    apart = len(first) == 1 and not first.pop().isdecimal()
    taken = 0
    for batch in batches:
        parts = zip(*(torch.split(value, 1) for value in batch), strict=True) if apart else iter([batch])
        for part in parts:
            if taken == most:
                return
            yield tuple(part)
            taken += 1
