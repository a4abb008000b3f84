"""Programs over sequences: dimension 0 is a batch of any size, dimension 1 a length with a maximum, or without."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from float_programs import Function
from fxpress_ir import Program, capture
from torch import Tensor, fx, nn


def over_lengths(
    body: nn.Module | Callable[[Tensor], Tensor],
    *width: int,
    most: int | None = 9,
    batches: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Program:
    """`body` captured for x[batch, seq, *width], seq of at most `most`, batch of at most `batches`."""
    model = body if isinstance(body, nn.Module) else Function(body)
    dimensions = {0: torch.export.Dim("batch", max=batches), 1: torch.export.Dim("seq", max=most)}
    return capture(model.eval(), (torch.zeros((2, 3, *width), dtype=dtype),), dynamic_shapes=(dimensions,))


def inputs(program: Program, batch: int, seq: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Normal values, or ids from 0 to 99 where integers are taken."""
    generator = torch.Generator().manual_seed(seed)
    zeros = program.example(batch=batch, seq=seq)

    def drawn(value: Tensor) -> Tensor:
        if value.is_floating_point():
            return torch.randn(value.shape, generator=generator, dtype=value.dtype)
        return torch.randint(0, 100, value.shape, generator=generator, dtype=value.dtype)

    return tuple(map(drawn, zeros))


def every_length(program: Program, most: int, batches: tuple[int, ...] = (1, 2, 3, 5)) -> Iterator[tuple[Tensor, ...]]:
    """Inputs of every length up to `most`, at several batch sizes in turn; of many lengths some, the longest among them."""
    for length in range(most, 0, -max(1, most // 10)):
        yield inputs(program, batches[length % len(batches)], length, seed=length)


def named(program: Program, target: object) -> fx.Node:
    """The first call of an operator."""
    return next(node for node in program.graph.nodes if node.target is target)


def decoder(x: Tensor) -> Tensor:
    """What transformers writes for packed sequences: numbers of sequences by counting, compared at each pair of places."""
    batch, seq = x.shape[:2]
    places = torch.arange(seq)[None]
    packed = (torch.diff(places.expand(batch, -1), prepend=places.expand(batch, -1)[:, :1] - 1, dim=-1) != 1).cumsum(-1)
    rows, queries, keys = torch.arange(batch)[:, None, None], torch.arange(seq)[:, None], torch.arange(seq)
    seen = (packed[rows, queries] == packed[rows, keys]) & (keys <= queries)
    return x @ x.mT * seen


def additive(x: Tensor) -> Tensor:
    """A mask as GPT-J wrote it, and the distances of T5 and ALiBi."""
    seq = x.shape[1]
    mask = torch.full((seq, seq), -1e4).triu(1) * (torch.arange(seq) > torch.arange(seq)[:, None] - 1)
    distance = torch.arange(seq)[:, None] - torch.arange(seq)
    bucket = torch.where(distance < 3, distance.abs(), ((distance.float().abs() + 1).log() / 2 * 3).long().clamp(max=5))
    bias = torch.linspace(0, 1, 8)[bucket] + distance.to(torch.float32) / 7 - distance.masked_fill(distance < 0, 9)
    return x @ x.mT + mask + bias.minimum(torch.cat([bias, bias], 0)[:seq])


def backwards(x: Tensor) -> Tensor:
    """Little of this begins alike."""
    seq = x.shape[1]
    count = torch.arange(seq)
    return x * (count.flip(0) + (seq - count) + count[-1:] + count.roll(1) + torch.arange(seq, 2 * seq) + count.sum())[:, None]


def floats(x: Tensor) -> Tensor:
    count = torch.arange(x.shape[1])[:, None] * torch.tensor([0.1, 0.3, 1.7, 2.9])
    return x * count.cos() + count.exp() / 3 - count.pow(2.5).sigmoid().tanh().abs().neg()
