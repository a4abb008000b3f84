"""Small transformers whose residual stream has a channel far wider than the others."""

from __future__ import annotations

from collections.abc import Callable

import torch
from float_programs import captured
from fxpress_ir import Program
from fxpress_passes.pipeline import Pipeline
from torch import Tensor, nn
from torch.nn import functional

WIDTH, LENGTH = 32, 6
Body = Callable[["Block", Tensor], Tensor]


class Block(nn.Module):
    """Seeded parts of a transformer block; `body` puts them together."""

    def __init__(self, body: Body, norm: type[nn.Module] = nn.RMSNorm, width: int = WIDTH) -> None:
        super().__init__()
        self.body = body
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.norm1, self.norm2, self.norm3 = norm(width), norm(width), norm(width)
            self.query, self.key, self.value, self.mix = (nn.Linear(width, width) for _ in range(4))
            self.start, self.up, self.down, self.head = (
                *(nn.Linear(width, width), nn.Linear(width, 2 * width)),
                *(nn.Linear(2 * width, width), nn.Linear(width, 5)),
            )
            self.token, self.positions = (nn.Parameter(torch.randn(1, length, width) / 4) for length in (1, LENGTH + 1))
            for part in (self.norm1, self.norm2, self.norm3):
                for parameter in part.parameters():
                    parameter.data += torch.rand(width) / 2
            for layer in (self.start, self.mix, self.down):
                layer.weight.data[3] *= 12

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)

    def attention(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (2, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        y: Tensor = self.mix(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return y


def decoder(m: Block, x: Tensor) -> Tensor:
    """Pre-norm, as in Llama."""
    x = m.start(x)
    x = x + m.attention(m.norm1(x))
    x = x + m.down(functional.gelu(m.up(m.norm2(x))))
    y: Tensor = m.head(m.norm3(x))
    return y


def classifier(m: Block, x: Tensor) -> Tensor:
    """The same with a class token and positions, as in ViT."""
    x = torch.cat([m.token.expand(len(x), -1, -1), m.start(x)], 1) + m.positions
    x = x + m.attention(m.norm1(x))
    x = x + m.down(functional.gelu(m.up(m.norm2(x))))
    y: Tensor = m.head(m.norm3(x)[:, 0])
    return y


def prepared(body: Body, norm: type[nn.Module] = nn.RMSNorm, width: int = WIDTH) -> Program:
    """[batch, length, width] captured, attention and root mean squares as later passes know them."""
    program = captured(Block(body, norm, width), 2, LENGTH, width)
    return Pipeline.parse("remove-noops, compose-linear, compose-rms-norm, decompose-unflatten, decompose-attention").run(program).program
