"""A small net with something for every fusion."""

from __future__ import annotations

from functools import lru_cache

import torch
from float_programs import captured
from fxpress_ir import Program
from torch import Tensor, nn
from torch.nn import functional


class Fusible(nn.Module):
    """What each fusion takes: paddings, input scaling, layers in a row, branches, a scaled skip, queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self._build()

    def _build(self) -> None:
        self.stem, self.thin = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 1)
        self.left, self.right = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.joins = nn.Conv2d(48, 32, 1)
        self.query, self.key, self.value = (nn.Linear(32, 32) for _ in range(3))
        self.mix, self.head = nn.Linear(32, 40), nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.thin(self.stem(functional.pad(x / 2, (1, 1, 1, 1)))))
        y = self.joins(torch.cat([self.left(y).relu(), self.right(y).sigmoid(), y * 0.7], 1)).relu()
        tokens = y.flatten(2).transpose(1, 2)
        q, k, v = (layer(tokens).unflatten(-1, (2, 16)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        scores: Tensor = self.head(self.mix(mixed)).mean(1)
        return scores


@lru_cache
def fusible_program() -> Program:
    """`Fusible` captured for [batch, 3, 6, 6]."""
    return captured(Fusible(), 2, 3, 6, 6)
