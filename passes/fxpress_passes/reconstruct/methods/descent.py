"""leaves ==> integers that leave the least squared error: Adam under a cosine through the rounding, the best of all steps kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .task import Learnt, Task

Quantize = Callable[[float], tuple[Tensor, Tensor]]
"""The share of steps that are done ==> differentiable in the leaves: [G, R, K] integers or what stands for them, and the scales."""


class Descent:
    """The damped error of a layer relative to what it was, in float32, and the best integers seen so far.

    The error is a quadratic form of the moments of all calibration data, so every step is one of the whole set, and rows do not
    depend on each other: the best is kept for each scale by itself, but where they are learnt as one.
    """

    def __init__(self, task: Task, *, learns_scales: bool = False) -> None:
        self._task, error = task, task.error
        self._together = learns_scales and task.has_one_scale
        damped = error.damped(task.how.damping)
        self._weight, self._moment, self._crossed = error.weight.float(), damped.float(), error.crossed.float()
        self._codes, self._scales = task.codes.float(), task.scales.float()
        with torch.no_grad():
            self._least = self._changes(self._codes, self._scales)
        constant = task.matrix.collect(error.constant).float()
        self._unit = (self._least + constant).clamp_min(torch.finfo(torch.float32).tiny)

    def _changes(self, codes: Tensor, scales: Tensor) -> Tensor:
        """The damped error for each scale, without its constant part."""
        change = codes * self._task.matrix.expand(scales) - self._weight
        return self._task.matrix.collect(((change @ self._moment + 2 * self._crossed) * change).sum(2))

    def run(self, leaves: Sequence[tuple[Tensor, float]], quantize: Quantize, extra: Callable[[float], Tensor] | None = None) -> Learnt:
        """Train.

        Args:
            leaves: with their first learning rates.
            quantize: what the leaves stand for. Integers that are none yet are rounded for what is kept.
            extra: is added to the sum over scales of the relative errors.
        """
        optimizer = torch.optim.Adam([{"params": [leaf], "lr": rate} for leaf, rate in leaves])
        rates, steps = [rate for _, rate in leaves], self._task.how.steps
        for step in range(steps):
            share = step / steps
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * share))
            with torch.enable_grad():
                codes, scales = quantize(share)
                errors = self._changes(codes, scales)
                loss = (errors / self._unit).sum()
                loss = loss if extra is None else loss + extra(share)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
            self._keep(codes.detach(), scales.detach(), errors.detach())
            optimizer.step()
            self._task.done(share)
        with torch.no_grad():
            codes, scales = quantize(1.0)
            self._keep(codes, scales, self._changes(codes, scales))
        return Learnt(self._codes.double(), self._scales.double())

    def _keep(self, codes: Tensor, scales: Tensor, errors: Tensor) -> None:
        rounded = codes.round()
        if not torch.equal(rounded, codes):
            errors = self._changes(rounded, scales)
        better = errors < self._least
        if self._together:
            better = (errors.sum() < self._least.sum()).expand_as(errors)
        self._least = torch.where(better, errors, self._least)
        self._scales = torch.where(better, scales, self._scales)
        self._codes = torch.where(self._task.matrix.expand(better), rounded, self._codes)


def rounded(x: Tensor, most: int) -> Tensor:
    """round(clamp(x)), with the gradient of the clamp (straight-through)."""
    inside = x.clamp(-most, most)
    return inside + (inside.round() - inside).detach()
