"""Small nets whose ranges are stretched: by a few channels in front of a normalisation, by a first token, by a class token."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

TOKEN, VOCABULARY, LONGEST = 1, 40, 32
WIDTH = 32


class WideNorm(nn.Module):
    """[batch, 16] to [batch, 8]; 2 of 128 channels are `wide` times as wide as the others, which the normalisation's gain undoes.

    They are opposites, so that the mean is that of the others, and change by half at most, and so does what all are divided by.
    """

    def __init__(self, norm: type[nn.Module] = nn.RMSNorm, wide: float = 300.0) -> None:
        super().__init__()
        widths = torch.ones(128)
        widths[:2] = wide
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.up, self.norm, self.down = nn.Linear(16, 128), norm(128), nn.Linear(128, 8)
        self.up.weight.data *= widths[:, None]
        self.up.bias.data[0] = 4 * wide
        for parameter in self.up.parameters():
            parameter.data[1] = -parameter.data[0]
        self.norm.weight.data = wide / widths / 2

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.norm(self.up(x)))
        return y


class Block(nn.Module):
    """x + attention(norm(x)), then x + down(silu(gate(norm(x))) * up(norm(x)))."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.norm1, self.norm2 = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.gate, self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (layer(y).unflatten(-1, (4, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        heads = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.out(heads.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        result: Tensor = x + self.down(functional.silu(self.gate(y)) * self.up(y))
        return result


class FirstToken(nn.Module):
    """[batch, positions] ids to scores, by two blocks; the token 1, the first of each sequence, drives a hidden channel far out."""

    def __init__(self, causal: bool = True, planted: bool = True) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.embedding, self.blocks = nn.Embedding(VOCABULARY, WIDTH), nn.ModuleList(Block(causal) for _ in range(2))
            self.norm, self.head = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY)
        if planted:
            table, block = self.embedding.weight.data, self.blocks[0]
            table[:, 5], table[TOKEN] = 0, 0
            table[TOKEN, 5] = 6
            for layer, weight in ((block.gate, 5.0), (block.up, 7.0)):
                assert isinstance(layer, nn.Linear)
                layer.weight.data[3] = 0
                layer.weight.data[3, 5] = weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        y: Tensor = self.head(self.norm(x))
        return y


def sequences(count: int, length: int, seed: int, first: int | None = TOKEN) -> tuple[Tensor]:
    """Random ids, int64 [count, length], that begin with `first`; None: with any but the token."""
    ids = torch.randint(TOKEN + 1, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(seed))
    if first is not None:
        ids[:, 0] = first
    return (ids,)


class ClassToken(nn.Module):
    """[batch, 16] as four patches to [batch, 8]: behind a class token far wider than they are stands a hidden layer.

    Some channels in front of its normalisation are wide, too.
    """

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.token, self.wide = nn.Parameter(torch.randn(1, 1, 8)), WideNorm()
            self.embed, self.up, self.down, self.head = nn.Linear(4, 8), nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 8)
        self.token.data *= 30

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(x.unflatten(-1, (4, 4)))
        y = torch.cat([self.token.expand(len(x), -1, -1), patches], 1)
        y = self.down(functional.gelu(self.up(y)))
        result: Tensor = self.head(y.mean(1)) + self.wide(x)
        return result
