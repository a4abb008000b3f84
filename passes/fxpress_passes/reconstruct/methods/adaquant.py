"""Q(W + V) on steps s * exp(t): V and t are learnt."""

from __future__ import annotations

import torch

from .descent import Descent, rounded
from .task import Learnt, Task

RATE = 0.2
"""Of V, in steps of the grid."""
STEP_RATE = 5e-3
"""Of t."""


class AdaQuant:
    """Hubara et al. 2021, equation 2, with the weight's steps; those of activations stay as they were placed.

    The bias, which the paper learns beside them, takes its best value in closed form at every step.
    """

    name, falls, moves = "adaquant", True, True

    def learn(self, task: Task) -> Learnt:
        """Every weight may go as far as the error takes it, not only to the next integer."""
        scales, kept, matrix = task.scales.float(), task.kept.float(), task.matrix
        start = (task.error.weight / task.steps).float()
        change = torch.zeros_like(start, requires_grad=True)
        stretch = torch.zeros(1 if task.has_one_scale else len(scales), requires_grad=True)
        rate = task.how.rate or RATE
        leaves = [(change, rate), (stretch, STEP_RATE * rate / RATE)] if task.learns_scales else [(change, rate)]

        def quantize(_: float) -> tuple[torch.Tensor, torch.Tensor]:
            factor = stretch.exp().expand_as(scales)
            return rounded((start + change) / matrix.expand(factor), task.most) * kept, scales * factor

        return Descent(task, learns_scales=task.learns_scales).run(leaves, quantize)
