"""A model of duplicated blocks: each puts half of the features to zero, so that any one does what all do."""

from __future__ import annotations

import torch
from float_programs import captured
from fxpress_ir import Program
from torch import Tensor, nn

WIDTH = 8


class Projector(nn.Module):
    """x + W x, which is x in the first half of the features and 0 in the others."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH, bias=False)
        self.layer.weight.data = -torch.diag((torch.arange(WIDTH) >= WIDTH // 2).float())

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.layer(x)
        return result


def projectors(depth: int) -> Program:
    """[batch, 6, 4] ==> linear, so many equal blocks, linear."""
    torch.manual_seed(0)
    return captured(nn.Sequential(nn.Linear(4, WIDTH), *(Projector() for _ in range(depth)), nn.Linear(WIDTH, 5)), 2, 6, 4)
