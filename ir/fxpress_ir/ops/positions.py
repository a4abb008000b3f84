"""y_j = max(offset + how many of mask_0 .. mask_j are true, least), or a fixed number where mask_j is false: positions of tokens."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from .library import Fact, Interval, Intervals, Proof, Tensors, arguments, check, define
from .matmul import counted

POSITIONS_MOST = 1 << 30
"""The longest row: counts and small offsets stay within 32 bits."""


def _positions(mask: Tensor, offset: int, least: int, hidden: int | None) -> Tensor:
    counts = (mask.cumsum(-1) + offset).clamp(min=least)
    return counts if hidden is None else torch.where(mask, counts, hidden)


def _fake_positions(mask: Tensor, offset: int, least: int, hidden: int | None) -> Tensor:
    check(mask.dim() >= 1, lambda: "the mask has no dimension")
    return torch.empty_like(mask, dtype=torch.int64)


def _prove_positions(node: fx.Node, intervals: Intervals, tensors: Tensors) -> Proof:
    named = arguments(node)
    count = counted(node, "positions", named["mask"].meta["val"].shape[-1], POSITIONS_MOST)
    ends = [max(end + named["offset"], named["least"]) for end in (0, min(count.high, POSITIONS_MOST))]
    ends += [] if named["hidden"] is None else [named["hidden"]]
    interval = Interval.of(min(ends), max(ends))
    return Proof(interval, (count, Fact.fits(node.name, "position", interval.low, interval.high, 32)))


positions = define(
    "positions(Tensor mask, int offset, int least, int? hidden) -> Tensor",
    _positions,
    _fake_positions,
    _prove_positions,
)
