"""round(W / (s * S_2 * s_3 * s_4)) on steps s: divisors of each weight, each output and each input are learnt."""

from __future__ import annotations

import torch
from torch import Tensor

from .descent import Descent, rounded
from .task import Learnt, Task

RATE = 0.05
"""Of the logarithms of divisors."""
STEP_RATE = 5e-3
"""Of that of s."""


class FlexRound:
    """Lee et al. 2023, layer by layer: because it divides, large weights move farther than small ones.

    s_4, one for each input channel, is the convolutions'.
    """

    name, falls, moves = "flexround", True, True

    def learn(self, task: Task) -> Learnt:
        """All divisors begin at one and stay positive."""
        scales, kept, matrix = task.scales.float(), task.kept.float(), task.matrix
        weight, rate = task.error.weight.float(), task.how.rate or RATE
        groups, rows, columns = weight.shape
        shapes = weight.shape, (groups, rows, 1), (groups, 1, columns // matrix.window), (1 if task.has_one_scale else len(scales),)
        each, output, inputs, stretch = (torch.zeros(shape, requires_grad=True) for shape in shapes)
        leaves = [(each, rate), (output, rate)] if matrix.is_linear else [(each, rate), (output, rate), (inputs, rate)]
        leaves += [(stretch, STEP_RATE * rate / RATE)] if task.learns_scales else []

        def quantize(_: float) -> tuple[Tensor, Tensor]:
            chosen = scales * stretch.exp()
            divisor = matrix.expand(chosen) * (each + output + inputs.repeat_interleave(matrix.window, 2)).exp()
            return rounded(weight / divisor, task.most) * kept, chosen

        return Descent(task, learns_scales=task.learns_scales).run(leaves, quantize)
