"""A module that is a function of its parts and of x, and parts with random values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Module(nn.Module):
    """`body` of a module's parts and x; `parts` are modules and tensors by name."""

    def __init__(self, body: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.body = body
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, Tensor) else part)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 2


def layer_of(inputs: int, outputs: int, *, bias: bool = True, seed: int = 0) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=bias)
    layer.weight.data = drawn(outputs, inputs, seed=seed)
    if bias:
        layer.bias.data = drawn(outputs, seed=seed + 1)
    return layer
