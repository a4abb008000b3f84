"""floor(W / s) + h(V), 0 <= h <= 1, driven to 0 or 1: whether each weight is rounded down or up is learnt."""

from __future__ import annotations

import torch
from torch import Tensor

from .descent import Descent
from .task import Learnt, Task

RATE = 0.4
ZETA, GAMMA = 1.1, -0.1
"""Ends of the stretched sigmoid (Nagel et al. 2020, equation 23)."""
WARM_UP = 0.2
"""The share of steps without the regulariser (BRECQ's and the authors' code)."""
BETAS = 20.0, 2.0
STRENGTH = 3.0
"""Of the regulariser, in the mean over a row's weights, beside the row's error relative to rounding to nearest."""


class AdaRound:
    """Nagel et al. 2020, section 3.3, layer by layer on the linear outputs."""

    name, falls, moves = "adaround", True, True

    def learn(self, task: Task) -> Learnt:
        """Integers are one of the two that a weight lies between, held to the grid's ends; zeros that are kept stay."""
        scales = task.scales.float()
        exact = (task.error.weight / task.steps).float()
        floor, kept = exact.floor(), task.kept.float()
        part = (exact - floor).clamp(1e-3, 1 - 1e-3)
        start = -torch.log((ZETA - GAMMA) / (part - GAMMA) - 1)
        raise_ = start.clone().requires_grad_()

        def up() -> Tensor:
            return (raise_.sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

        def quantize(share: float) -> tuple[Tensor, Tensor]:
            chosen = up() if share < 1 else up().round()
            return (floor + chosen).clamp(-task.most, task.most) * kept, scales

        def extra(share: float) -> Tensor:
            if share < WARM_UP:
                return torch.zeros(())
            done = (share - WARM_UP) / (1 - WARM_UP)
            beta = BETAS[1] + (BETAS[0] - BETAS[1]) * (1 - done)
            return STRENGTH * (1 - (2 * up() - 1).abs().pow(beta)).mean(2).sum()

        return Descent(task).run([(raise_, task.how.rate or RATE)], quantize, extra)
