"""A small encoder with all that structured pruning removes: heads, hidden units, features of the stream, layers."""

from __future__ import annotations

from functools import lru_cache

import torch
from float_programs import captured
from fxpress_ir import Program
from torch import Tensor, nn
from torch.nn import functional


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (part(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        result: Tensor = x + self.down(functional.gelu(self.up(self.norm2(x))))
        return result


class Encoder(nn.Module):
    """[batch, 6, 4] to [batch, 5]: two layers of four heads."""

    def __init__(self, width: int = 16, heads: int = 4, hidden: int = 24, depth: int = 2, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.stem, self.norm, self.head = nn.Linear(4, width), nn.LayerNorm(width), nn.Linear(width, 5)
            self.layers = nn.Sequential(*(Layer(width, heads, hidden) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.norm(self.layers(self.stem(x))).mean(1))
        return scores


@lru_cache
def encoder_program() -> Program:
    """`Encoder` captured for [batch, 6, 4]."""
    return captured(Encoder(), 2, 6, 4)
