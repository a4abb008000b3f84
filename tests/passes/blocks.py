"""Small transformer blocks, as modules and as programs ready for quantisers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from fxpress_ir import Program, capture
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.pipeline import Context, Pipeline
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, LENGTH, MOST = 16, 2, 6, 9
"""Features, heads of attention, the length of examples, the longest sequence."""

READY = "remove-noops, fold-constants, compose-rms-norm, decompose-unflatten, decompose-attention"
"""What comes before quantisers stand."""


class Block(nn.Module):
    """Norms with gains and shifts of a trained net, projections, an attention and a perceptron of two layers."""

    def __init__(self, norm: Callable[[int], nn.Module], seed: int = 5) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.norm1, self.norm2, self.last = norm(WIDTH), norm(WIDTH), norm(WIDTH)
            self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
            self.up, self.down, self.head = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH), nn.Linear(WIDTH, 3)
            for name, parameter in self.named_parameters():
                if "norm" in name or "last" in name:
                    nn.init.uniform_(parameter, *((0.5, 1.5) if name.endswith("weight") else (-0.3, 0.3)))

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [batch, heads, length, features]."""
        q, k, v = (part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        return q, k, v

    def attention(self, x: Tensor) -> Tensor:
        result: Tensor = self.out(functional.scaled_dot_product_attention(*self.heads(x)).transpose(1, 2).flatten(2))
        return result

    def perceptron(self, x: Tensor) -> Tensor:
        result: Tensor = self.down(functional.gelu(self.up(x)))
        return result


class PreNorm(Block):
    """x + f(norm(x)) twice behind a class token and positions, as in a vision transformer; the token's scores."""

    def __init__(self) -> None:
        super().__init__(nn.LayerNorm)
        generator = torch.Generator().manual_seed(6)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH, generator=generator))
        self.positions = nn.Parameter(torch.randn(1, LENGTH + 1, WIDTH, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        y = y + self.attention(self.norm1(y))
        y = y + self.perceptron(self.norm2(y))
        scores: Tensor = self.head(self.last(y)[:, 0])
        return scores


class PostNorm(Block):
    """norm(x + f(x)) twice, as in BERT; the last normalised value is the result."""

    def __init__(self) -> None:
        super().__init__(nn.LayerNorm)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x + self.attention(x))
        result: Tensor = self.norm2(y + self.perceptron(y))
        return result


class Decoder(Block):
    """Pre-norm with root mean squares, queries and keys turned by constant angles, causal, gated, as in Llama; of any length."""

    def __init__(self) -> None:
        super().__init__(nn.RMSNorm)
        features = WIDTH // HEADS
        angles = torch.outer(torch.arange(MOST), 100 ** (-torch.arange(0, features, 2) / features)).repeat(1, 2)
        self.register_buffer("cosine", angles.cos())
        self.register_buffer("sine", angles.sin())
        with torch.random.fork_rng():
            torch.manual_seed(7)
            self.table, self.gate = nn.Embedding(50, WIDTH), nn.Linear(WIDTH, 2 * WIDTH)

    def turned(self, x: Tensor) -> Tensor:
        first, second = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
        cosine, sine = (table[: x.shape[-2]][None, None] for table in (self.cosine, self.sine))
        return x * cosine + torch.cat([-second, first], -1) * sine

    def attention(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(x)
        mixed = functional.scaled_dot_product_attention(self.turned(q), self.turned(k), v, is_causal=True)
        result: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return result

    def forward(self, ids: Tensor) -> Tensor:
        y = self.table(ids)
        y = y + self.attention(self.norm1(y))
        z = self.norm2(y)
        y = y + self.down(functional.silu(self.gate(z)) * self.up(z))
        scores: Tensor = self.head(self.last(y))
        return scores


BLOCKS: dict[str, type[Block]] = {"pre-norm": PreNorm, "post-norm": PostNorm, "decoder": Decoder}


def example(name: str, batch: int, seed: int, length: int = LENGTH) -> tuple[Tensor, ...]:
    """Inputs of a block; only the decoder takes another length."""
    generator = torch.Generator().manual_seed(seed)
    if name == "decoder":
        return (torch.randint(0, 50, (batch, length), generator=generator),)
    return (torch.randn(batch, length, WIDTH, generator=generator),)


@lru_cache
def block(name: str) -> Program:
    """A block as it was captured; its batch is dynamic, the decoder's length too."""
    dimensions = {0: torch.export.Dim("batch")}
    if name == "decoder":
        dimensions[1] = torch.export.Dim("length", max=MOST)
    return capture(BLOCKS[name]().eval(), example(name, 2, 0), dynamic_shapes=(dimensions,))


@lru_cache
def ready(name: str) -> Program:
    """A block whose attention and norms are written as quantisers want them."""
    return Pipeline.parse(READY).run(block(name)).program


def calibration(name: str) -> list[tuple[Tensor, ...]]:
    return [example(name, 8, seed) for seed in range(4)]


def seen(name: str) -> Context:
    """A context with calibration data of a block."""
    return Context(Evidence(Calibration(calibration(name))))
