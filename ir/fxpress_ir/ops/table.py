"""y = table[q]: any function of an 8-bit value, one table for the tensor or one a channel; of a 16-bit value by chords of 128 steps."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, fx

from .library import Fact, Interval, Intervals, Proof, Tensors, arguments, check, constant, define

CHORD_BITS = 7
"""A chord of a 16-bit table spans 2**7 codes, so that 513 knots span all 65536 (TensorFlow Lite's layout)."""
KNOTS = (1 << (16 - CHORD_BITS)) + 1
_HALF = 1 << (CHORD_BITS - 1)


def _rows(x: Tensor, table: Tensor, axis: int) -> Tensor | int:
    """The row of the table for each element, to be broadcast with it."""
    if table.shape[0] == 1:
        return 0
    return torch.arange(table.shape[0], device=x.device).reshape([-1 if d == axis % x.dim() else 1 for d in range(x.dim())])


def _lut(x: Tensor, table: Tensor, axis: int) -> Tensor:
    index = x.long() + (128 if x.dtype == torch.int8 else 0)
    return table.to(x.device)[_rows(x, table, axis), index]


def _lut16(x: Tensor, table: Tensor, axis: int) -> Tensor:
    codes = x.to(torch.int32) + (1 << 15)
    knots, rows, index = table.to(device=x.device, dtype=torch.int32), _rows(x, table, axis), (codes >> CHORD_BITS).long()
    start, end = knots[rows, index], knots[rows, index + 1]
    return (start + ((end - start) * (codes & ((1 << CHORD_BITS) - 1)) + _HALF >> CHORD_BITS)).to(torch.int16)


def _fake_lut16(x: Tensor, table: Tensor, axis: int) -> Tensor:
    check(table.dim() == 2 and table.shape[1] == KNOTS, lambda: f"the table has shape {list(table.shape)}, expected [channels, {KNOTS}]")
    return torch.empty_like(x, dtype=torch.int16)


def _prove_lut(node: fx.Node, intervals: Intervals, tensors: Tensors) -> Proof:
    named = arguments(node)
    table, x = constant(named["table"], tensors), intervals[named["x"]].hull()
    offset = 128 if named["x"].meta["val"].dtype == torch.int8 else 0
    index = Fact(node.name, "table index", int(x.low) + offset, int(x.high) + offset, 0, table.shape[1] - 1)
    reached = table[:, max(int(x.low) + offset, 0) : int(x.high) + offset + 1]
    return Proof(Interval.of(int(reached.min()), int(reached.max())), (index,))


def _prove_lut16(node: fx.Node, intervals: Intervals, tensors: Tensors) -> Proof:
    """A chord stays between its knots: its rounded share of their difference lies between 0 and the difference."""
    named = arguments(node)
    table, x = constant(named["table"], tensors), intervals[named["x"]].hull()
    index = Fact(node.name, "code", int(x.low), int(x.high), -(1 << 15), (1 << 15) - 1)
    steps = np.diff(table, axis=1) * ((1 << CHORD_BITS) - 1)
    product = Fact.fits(node.name, "chord's product and rounding term", np.minimum(steps.min(1), 0), steps.max(1) + _HALF, 32)
    if not index.holds:
        return Proof(Interval.of(int(table.min()), int(table.max())), (index, product))
    first, last = (int(end) + (1 << 15) >> CHORD_BITS for end in (x.low, x.high))
    reached = table[:, first : last + 2]
    return Proof(Interval.of(int(reached.min()), int(reached.max())), (index, product))


lut = define(
    "lut(Tensor x, Tensor table, int axis) -> Tensor",
    _lut,
    lambda x, table, axis: torch.empty_like(x, dtype=table.dtype),
    _prove_lut,
)
lut16 = define("lut16(Tensor x, Tensor table, int axis) -> Tensor", _lut16, _fake_lut16, _prove_lut16)
