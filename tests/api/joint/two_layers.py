"""A network of two linear layers, where a loss or a cost can be worked out by hand."""

from __future__ import annotations

from functools import cache

import torch
from fxpress.joint import Space, prepared
from fxpress_ir import capture
from fxpress_passes import Context
from fxpress_passes.evidence import Calibration, Evidence
from torch import Tensor, nn
from torch.nn import functional

BATCHES = [(torch.randn(8, 6, generator=torch.Generator().manual_seed(seed)),) for seed in range(2)]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(functional.relu(self.first(x)))
        return result


@cache
def space() -> Space:
    """Layers ``linear`` [16, 6] and ``linear_1`` [4, 16]; the group between them is ``first``."""
    data = Calibration(BATCHES)
    return Space.of(prepared(capture(Net().eval(), BATCHES[0]), data), Context(Evidence(data)), bits=("w8", "w3"), align=4)


class Beside(nn.Module):
    """Two layers side by side, whose outputs a third takes as one input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right, self.last = nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        found = torch.cat((functional.relu(self.left(x)), functional.relu(self.right(x))), -1)
        result: Tensor = self.last(found)
        return result


@cache
def beside() -> Space:
    """Layers ``linear`` and ``linear_1`` [16, 6], ``linear_2`` [4, 32]; groups ``left`` and ``right``."""
    data = Calibration(BATCHES)
    return Space.of(prepared(capture(Beside().eval(), BATCHES[0]), data), Context(Evidence(data)), ("channels",), align=4)
