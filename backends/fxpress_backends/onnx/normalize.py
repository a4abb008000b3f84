"""normalize ==> sums by products with ones, 64-bit integers a row, uint32 elements; affine ==> one product and a rounding shift.

ONNX shifts unsigned integers only, so values that may be negative are lifted by a power of two before a shift and lowered
after it; uint32 arithmetic wraps, which lets a lift be part of the next constant. ReduceSum would accumulate in double. What
depends on a row's h alone is looked up: one Gather in place of several nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from fxpress_ir.ops import RSQRT_TABLE, arguments
from numpy.typing import NDArray
from torch import fx

from . import rounding
from .walk import STORAGE, Walk, zero_point

_fxp = torch.ops.fxp
_HALF_LOGS = np.arange(31)
_LIFT = 1 << 29
"""Above any deviation with its rounding term, and a multiple of every shift of one (at most 2**21)."""
_RESULT_LIFT = 1 << 17
"""Above any normalised value, below 2**16 + 8; before its shift by 14 it is 2**31."""
_POSITIVE = 1 << 31

Lookup = Callable[[Any, type[np.generic]], ir.Value]
"""The entry of a table of 31, of one element type, that belongs to each row's h."""


def normalize(walk: Walk, node: fx.Node) -> ir.Value:
    """The normalised value; lifted, as uint32, where every reader takes the lift off in its own constants."""
    named = arguments(node)
    codes, total, moment = _moments(walk, named["x"], named["centre"], named["epsilon"])
    root, lookup = _reciprocal_root(walk, moment)
    lifted = _normalized(walk, codes, total, root, lookup, int(walk.shape(node)[-1]))
    if is_lifted(node):
        return lifted
    return walk.op("Sub", walk.op("Cast", lifted, to=ir.DataType.INT32), walk.constant(np.int32(_RESULT_LIFT)))


def is_lifted(node: fx.Node) -> bool:
    """A normalised value that nothing but affine maps read."""
    return node.target is _fxp.normalize.default and all(user.target is _fxp.affine.default for user in node.users)


def _moments(walk: Walk, x: fx.Node, centre: bool, epsilon: int) -> tuple[ir.Value, ir.Value | None, ir.Value]:
    """The stored values as uint32, where centred their sum (uint32, modulo 2**32), and V as int64.

    A zero point moves all values alike and changes neither deviations nor V; where rows are not centred it is taken off.
    """
    count, interval, zero = int(walk.shape(x)[-1]), walk.intervals[x].hull(), zero_point(x)
    codes = walk.op("Cast", walk.value(x), to=ir.DataType.UINT32)
    if zero and not centre:
        codes, zero = walk.op("Sub", codes, walk.constant(np.uint32(zero))), 0
    largest = max(abs(int(interval.low) + zero), abs(int(interval.high) + zero))
    squares = walk.op("Mul", codes, codes)
    narrow = count * largest**2 < 1 << 32
    wide = squares if narrow else walk.op("Cast", squares, to=ir.DataType.INT64)
    second = walk.op("MatMul", wide, walk.constant(np.ones((count, 1), np.uint32 if narrow else np.int64)))
    second = walk.op("Cast", second, to=ir.DataType.INT64) if narrow else second
    moment = walk.op("Add", walk.op("Mul", second, walk.constant(np.int64(count))), walk.constant(np.int64(epsilon)))
    if not centre:
        return codes, None, moment
    total = walk.op("MatMul", codes, walk.constant(np.ones((count, 1), np.uint32)))
    signed = walk.op("Cast", walk.op("Cast", total, to=ir.DataType.INT32), to=ir.DataType.INT64)
    return codes, total, walk.op("Sub", moment, walk.op("Mul", signed, signed))


def _reciprocal_root(walk: Walk, moment: ir.Value) -> tuple[ir.Value, Lookup]:
    """R' = (R + 1) >> 1 of each row as uint32, and lookups by its h = floor(log4 V)."""

    def shifted(value: ir.Value, by: ir.Value | int, direction: str = "RIGHT") -> ir.Value:
        return walk.op("BitShift", value, by if isinstance(by, ir.Value) else walk.constant(np.uint64(by)), direction=direction)

    powers = walk.constant(np.left_shift(1, 2 * _HALF_LOGS[1:]).astype(np.int64))
    reached = walk.op("Cast", walk.op("GreaterOrEqual", moment, powers), to=ir.DataType.INT32)
    half_log = walk.op("MatMul", reached, walk.constant(np.ones((30, 1), np.int32)))

    def lookup(table: Any, kind: type[np.generic]) -> ir.Value:
        return walk.op("Gather", walk.constant(np.asarray(table).astype(kind)), half_log)

    # m >> 8 for m = V * 4**(15 - h), whose bits 15 and up count the table's steps from 128 on
    left, right = (lookup(np.maximum(by, 0), np.uint64) for by in (22 - 2 * _HALF_LOGS, 2 * _HALF_LOGS - 22))
    leading = shifted(shifted(walk.op("Cast", moment, to=ir.DataType.UINT64), left, "LEFT"), right)
    table = np.array([0] * 128 + list(RSQRT_TABLE), np.uint64)
    start = walk.op("Gather", walk.constant(table), walk.op("Cast", shifted(leading, 15), to=ir.DataType.INT32))
    # R0 + (R0 * (E >> 24) + 2**30 >> 31) with R0 and 2**31 drawn into the shifts, which leaves nothing negative
    square = walk.op("Mul", leading, walk.op("Mul", start, start))
    step = shifted(walk.op("Sub", walk.constant(np.uint64(3 << 54)), square), 24)
    doubled = walk.op("Add", walk.op("Mul", start, step), walk.constant(np.uint64((1 << 30) + (1 << 31))))
    return walk.op("Cast", shifted(doubled, 32), to=ir.DataType.UINT32), lookup


def _normalized(walk: Walk, codes: ir.Value, total: ir.Value | None, root: ir.Value, lookup: Lookup, count: int) -> ir.Value:
    """d' = rs_up(N * x - S1, h - 9), then d' * R' rounded and shifted by 14, both lifted."""
    right, left = np.maximum(_HALF_LOGS - 9, 0), np.maximum(9 - _HALF_LOGS, 0)
    offset = lookup((1 << right >> 1) + _LIFT, np.uint32)
    if total is not None:
        offset = walk.op("Sub", offset, walk.op("Mul", total, lookup(1 << left, np.uint32)))
    deviation = walk.op("Add", walk.op("Mul", codes, lookup(count << left, np.uint32)), offset)
    deviation = walk.op("BitShift", deviation, lookup(right, np.uint32), direction="RIGHT")
    lowered = walk.op("Mul", root, lookup(_LIFT >> right, np.uint32))
    addend = walk.op("Sub", walk.constant(np.uint32(_POSITIVE + (1 << 13))), lowered)
    product = walk.op("Add", walk.op("Mul", deviation, root), addend)
    return walk.op("BitShift", product, walk.constant(np.uint32(14)), direction="RIGHT")


def affine(walk: Walk, node: fx.Node) -> ir.Value:
    """In uint32: the sum fits 31 bits and a sign, which needs no clamp before it."""
    named = arguments(node)
    u, c = named["u"], named["c"]
    interval = walk.intervals[u].hull()
    g, b = (walk.array(named[operand]).astype(np.int64) for operand in ("g", "b"))
    low, high = (bound(interval.low * g, interval.high * g) + b for bound in (np.minimum, np.maximum))
    kind, zero = STORAGE[named["dtype"]]
    plan = rounding.bounded(int(low.min()), int(high.max()), g, b - _lift(u) * g, c, named["qmin"], named["qmax"], zero)
    return rounding.emit(walk, walk.value(u), plan, named["axis"], u.meta["val"].dim(), kind)


def affine_in_float64(walk: Walk, node: fx.Node) -> ir.Value:
    """(u * g + b) / 2**c and an even zero point are exact in 53 bits; Round goes to even."""
    named = arguments(node)
    u, rank, (kind, zero) = named["u"], node.meta["val"].dim(), STORAGE[named["dtype"]]
    g, b = (walk.array(named[operand]).astype(np.float64) for operand in ("g", "b"))

    def spread(values: NDArray[np.float64]) -> ir.Value:
        shape = [-1 if axis == named["axis"] % rank else 1 for axis in range(rank)] if values.size > 1 else []
        return walk.constant(values.reshape(shape))

    scaled = walk.op("Mul", walk.op("Cast", walk.value(u), to=ir.DataType.DOUBLE), spread(np.ldexp(g, -named["c"])))
    moved = walk.op("Add", scaled, spread(np.ldexp(b - _lift(u) * g, -named["c"]) + zero))
    bounds = (walk.constant(np.float64(bound + zero)) for bound in (named["qmin"], named["qmax"]))
    return walk.op("Cast", walk.op("Clip", walk.op("Round", moved), *bounds), to=kind, facts={"shift": named["c"]})


def _lift(node: fx.Node) -> int:
    """What the graph's value of an affine map's operand exceeds the operand by."""
    return _RESULT_LIFT if is_lifted(node) else zero_point(node)
