"""Values that change places: rows and columns by index, zeros between pixels, constants around, one tensor after another."""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.nn import functional

from .library import Fact, Interval, Intervals, Proof, Tensors, arguments, define


def _select2d(x: Tensor, rows: list[int], columns: list[int]) -> Tensor:
    down = x.index_select(2, torch.tensor(rows, device=x.device))
    return down.index_select(3, torch.tensor(columns, device=x.device))


def _insert_zeros(x: Tensor, stride: list[int]) -> Tensor:
    out = x.new_zeros([x.shape[0], x.shape[1], x.shape[2] * stride[0], x.shape[3] * stride[1]])
    out[:, :, :: stride[0], :: stride[1]] = x
    return out


def _pad2d(x: Tensor, padding: list[int], value: int) -> Tensor:
    top, left, bottom, right = padding
    return functional.pad(x, (left, right, top, bottom), value=value)


def _concat(xs: list[Tensor], axis: int) -> Tensor:
    return torch.cat(xs, axis)


def _union(parts: list[Interval]) -> Interval:
    return Interval.of(min(int(part.low.min()) for part in parts), max(int(part.high.max()) for part in parts))


def _prove_pad2d(node: fx.Node, intervals: Intervals, tensors: Tensors) -> Proof:
    named = arguments(node)
    limits = torch.iinfo(named["x"].meta["val"].dtype)
    fact = Fact(node.name, "padded value", named["value"], named["value"], limits.min, limits.max)
    return Proof(_union([intervals[named["x"]], Interval.of(named["value"], named["value"])]), (fact,))


def _prove_concat(node: fx.Node, intervals: Intervals, tensors: Tensors) -> Proof:
    return Proof(_union([intervals[x] for x in arguments(node)["xs"]]))


def _prove_select2d(node: fx.Node, intervals: Intervals, tensors: Tensors) -> Proof:
    return Proof(intervals[arguments(node)["x"]].hull())


def _prove_insert_zeros(node: fx.Node, intervals: Intervals, tensors: Tensors) -> Proof:
    x = intervals[arguments(node)["x"]].hull()
    return Proof(Interval.of(min(int(x.low), 0), max(int(x.high), 0)))


select2d = define(
    "select2d(Tensor x, int[] rows, int[] columns) -> Tensor",
    _select2d,
    lambda x, rows, columns: x.new_empty([x.shape[0], x.shape[1], len(rows), len(columns)]),
    _prove_select2d,
)
insert_zeros = define(
    "insert_zeros(Tensor x, int[2] stride) -> Tensor",
    _insert_zeros,
    lambda x, stride: x.new_empty([x.shape[0], x.shape[1], x.shape[2] * stride[0], x.shape[3] * stride[1]]),
    _prove_insert_zeros,
)
pad2d = define(
    "pad2d(Tensor x, int[4] padding, int value) -> Tensor",
    _pad2d,
    lambda x, padding, value: x.new_empty([*x.shape[:2], x.shape[2] + padding[0] + padding[2], x.shape[3] + padding[1] + padding[3]]),
    _prove_pad2d,
)
concat = define(
    "concat(Tensor[] xs, int axis) -> Tensor",
    _concat,
    _concat,
    _prove_concat,
)
