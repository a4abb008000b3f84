"""Scores by MatMulInteger and rounding, exponentials by GatherElements, [O | S] by one MatMulInteger with v and a column of ones.

O and S are then divided row by row: rs(O, e) * R + 2**14 >> 15 with e = max(n - 7, 0), on unsigned integers. Since 2**31 is a
multiple of 2**e, O + 2**31 shifts to rs(O, e) + (2**31 >> e), and what that adds to the product is taken off again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from fxpress_ir.ops import KEPT_BITS, Interval, arguments, prove_mean, prove_scores
from torch import fx

from . import rounding
from .product import signed_bytes, signed_point
from .softmax import exponentials, reciprocal, static_elements
from .walk import STORAGE, Walk

_ONE = np.ones(1, np.int64)
_LIFT = 1 << 16
"""What a mean exceeds its value by before it is rescaled."""

Rescale = Callable[[Walk, fx.Node, ir.Value], ir.Value]


def attention(walk: Walk, node: fx.Node) -> ir.Value:
    return attended(walk, node, scores, rescaled)


def attended(walk: Walk, node: fx.Node, score: Callable[[Walk, fx.Node], ir.Value], rescale: Rescale) -> ir.Value:
    """The emitter of both flavours, which differ in how they round.

    Args:
        score: gives clamp(rne((q k^T + bias) * b / 2**c)), u8 with 128 added.
        rescale: gives the stored result from the mean, int32 with 2**16 added.
    """
    scored, (seen, counted) = score(walk, node), _seen(walk, node)
    if seen is not None:
        scored = walk.op("Where", seen, scored, walk.constant(np.uint8(0)))
    named = arguments(node)
    found = exponentials(walk, node, scored, static_elements(walk, named["q"]) // walk.shape(named["q"])[-1])
    if counted is not None:
        found = walk.op("Where", counted, found, walk.constant(np.uint8(0)))
    return rescale(walk, node, _mean(walk, node, found))


def scores(walk: Walk, node: fx.Node) -> ir.Value:
    """clamp(rne((q k^T + bias) * b / 2**c)), u8 with 128 added."""
    named = arguments(node)
    total = prove_scores(node, walk.intervals).interval
    plan = rounding.plan(total, _ONE * 0, _ONE * named["b"], named["c"], -128, 127, 128)
    return rounding.emit(walk, accumulated(walk, node), plan, 0, len(walk.shape(node)), ir.DataType.UINT8)


def accumulated(walk: Walk, node: fx.Node) -> ir.Value:
    """q k^T + bias, int32."""
    named = arguments(node)
    q, bias = named["q"], named["bias"]
    acc = walk.op("MatMulInteger", walk.value(q), keys(walk, named["k"]), walk.point(q), signed_point(walk, named["k"]))
    return acc if bias is None else walk.op("Add", acc, walk.value(bias))


def keys(walk: Walk, k: fx.Node) -> ir.Value:
    """The keys as columns, s8."""
    order = list(range(len(walk.shape(k))))
    return signed_bytes(walk, walk.op("Transpose", walk.value(k), perm=[*order[:-2], order[-1], order[-2]]))


def rescaled(walk: Walk, node: fx.Node, mean: ir.Value) -> ir.Value:
    named = arguments(node)
    kind, zero = STORAGE[named["dtype"]]
    plan = rounding.plan(_means(walk, node), _ONE * -_LIFT, _ONE * named["ob"], named["oc"], named["qmin"], named["qmax"], zero)
    return rounding.emit(walk, mean, plan, 0, len(walk.shape(node)), kind)


def lowered(walk: Walk, mean: ir.Value) -> ir.Value:
    """The mean as int32 without what was added."""
    return walk.op("Sub", mean, walk.constant(np.int32(_LIFT)))


def _means(walk: Walk, node: fx.Node) -> Interval:
    return prove_mean(node, walk.intervals, walk.program.tensors).interval


def _seen(walk: Walk, node: fx.Node) -> tuple[ir.Value | None, ir.Value | None]:
    """True where a key keeps its score, and where it counts; None where all do."""
    named = arguments(node)
    earlier = _earlier(walk, named["q"], named["k"]) if named["causal"] else None
    if named["mask"] is None:
        return earlier, earlier
    mask = walk.value(named["mask"])
    seen = mask if earlier is None else walk.op("And", mask, earlier)
    if named["unseen"] == "zero":
        return seen, seen
    bytes_ = walk.op("Cast", seen, to=ir.DataType.UINT8)
    some = walk.op("Cast", walk.op("ReduceMax", bytes_, walk.constant(np.array([-1], np.int64)), keepdims=1), to=ir.DataType.BOOL)
    counted = walk.op("Or", seen, walk.op("Not", some))
    if named["unseen"] == "mean":
        return seen, counted
    counted = counted if earlier is None else walk.op("And", counted, earlier)
    return counted, counted


def _earlier(walk: Walk, q: fx.Node, k: fx.Node) -> ir.Value:
    """[queries, keys]: the key's number is not above the query's."""
    sizes = [walk.shape(operand)[-2] for operand in (q, k)]
    if all(isinstance(size, int) for size in sizes):
        return walk.constant(np.tri(*sizes, dtype=np.bool_))
    first, step = (walk.constant(np.int64(value)) for value in (0, 1))
    lengths = [walk.op("Squeeze", walk.op("Shape", walk.value(operand), start=-2, end=-1)) for operand in (q, k)]
    queries, keys = (walk.op("Range", first, length, step) for length in lengths)
    return walk.op("GreaterOrEqual", walk.op("Unsqueeze", queries, walk.constant(np.array([1], np.int64))), keys)


def _mean(walk: Walk, node: fx.Node, found: ir.Value) -> ir.Value:
    """2**8 * O / S + 2**16, int32."""
    named = arguments(node)
    v, table, width, rank = named["v"], walk.array(named["table"]), walk.shape(named["v"])[-1], len(walk.shape(node))
    pads = walk.constant(np.array([0] * (2 * rank - 1) + [1], np.int64))
    values = signed_bytes(walk, walk.op("Pad", walk.value(v), pads, walk.number(v, 1)))
    sums = walk.op("MatMulInteger", found, values, walk.constant(np.uint8(0)), signed_point(walk, v))
    weighted, total = (_columns(walk, sums, *bounds) for bounds in ((0, width), (width, width + 1)))

    def number(value: int) -> ir.Value:
        return walk.constant(np.uint32(value))

    def shifted(value: ir.Value, bits: ir.Value, direction: str) -> ir.Value:
        return walk.op("BitShift", value, bits, direction=direction)

    most = (1 << 24) if not isinstance(walk.shape(named["k"])[-2], int) else walk.shape(named["k"])[-2] * int(table.max())
    factor, n = reciprocal(walk, total, most)
    excess = walk.op("Sub", walk.op("Max", n, number(KEPT_BITS)), number(KEPT_BITS))
    half = shifted(shifted(number(1), excess, "LEFT"), number(1), "RIGHT")
    kept = shifted(walk.op("Add", weighted, walk.op("Add", half, number(1 << 31))), excess, "RIGHT")
    lift = walk.op("Sub", number((1 << 31) + (1 << 14)), walk.op("Mul", shifted(number(1 << 31), excess, "RIGHT"), factor))
    mean = shifted(walk.op("Add", walk.op("Mul", kept, factor), lift), number(15), "RIGHT")
    return walk.op("Cast", mean, to=ir.DataType.INT32)


def _columns(walk: Walk, sums: ir.Value, start: int, end: int) -> ir.Value:
    bounds = (walk.constant(np.array([value], np.int64)) for value in (start, end, -1))
    return walk.op("Cast", walk.op("Slice", sums, *bounds), to=ir.DataType.UINT32)
