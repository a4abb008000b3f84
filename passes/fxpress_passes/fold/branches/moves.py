"""Operator that moves the features of an affine value ==> affine value: views, permutes, slices, sums of groups."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from .affine import Affine, NotAffine

_aten = torch.ops.aten


def _value(named: dict[str, Any]) -> Affine:
    value = next(iter(named.values()))
    if not isinstance(value, Affine):
        raise NotAffine("its operand is no single value")
    return value


def _viewed(node: fx.Node, named: dict[str, Any]) -> Affine:
    """Rows stay rows, in their order; the features behind them may be split or joined."""
    value, shape = _value(named), list(node.meta["val"].shape)
    if _equal(shape, _layout(value)):
        return value
    count = len(value.rows)
    if value.rows != tuple(range(count)):
        raise NotAffine("a view of it does not keep rows apart")
    wanted = [value.shift.shape[d] for d in value.features]
    starts = [start for start in range(1, len(shape) + 1) if _features(shape[start:]) == prod(wanted)]
    if not starts:
        raise NotAffine("a view of it does not keep rows apart")
    start = count if count in starts else max(starts)
    new, parts = [1] * start + shape[start:], value if shape[start:] == wanted else value.dense()
    counted = [parts.linear.shape[0], *new[1:]]
    rows, sizes = tuple(range(start)), tuple(shape[:start])
    return replace(parts, linear=parts.linear.reshape(counted), shift=parts.shift.reshape(new), rows=rows, sizes=sizes)


def _layout(value: Affine) -> list[Any]:
    """The value's shape."""
    shape: list[Any] = list(value.shift.shape)
    for row, size in zip(value.rows, value.sizes, strict=True):
        shape[row] = size
    return shape


def _equal(first: Sequence[Any], second: Sequence[Any]) -> bool:
    return len(first) == len(second) and all(statically_known_true(a == b) for a, b in zip(first, second, strict=True))


def _features(sizes: Sequence[Any]) -> int | None:
    return prod(sizes) if all(isinstance(size, int) for size in sizes) else None


def _permuted(node: fx.Node, named: dict[str, Any]) -> Affine:
    value = _value(named)
    count = value.shift.dim()
    order = [*range(count)]
    if node.target is _aten.transpose.int:
        first, second = (named[key] % count for key in ("dim0", "dim1"))
        order[first], order[second] = second, first
    elif node.target is _aten.permute.default:
        order = [d % count for d in named["dims"]]
    else:
        order.reverse()
    return value.map(lambda part: part.permute(order), tuple(order.index(row) for row in value.rows))


def _unsqueezed(node: fx.Node, named: dict[str, Any]) -> Affine:
    value, dim = _value(named), named["dim"] % (_value(named).shift.dim() + 1)
    return value.dense().map(lambda part: part.unsqueeze(dim), tuple(row + (row >= dim) for row in value.rows))


def _squeezed(node: fx.Node, named: dict[str, Any]) -> Affine:
    value, dim = _value(named), named["dim"] % _value(named).shift.dim()
    if dim in value.rows:
        raise NotAffine("it drops a dimension of rows")
    if value.shift.shape[dim] != 1:
        return value
    return value.dense().map(lambda part: part.squeeze(dim), tuple(row - (row > dim) for row in value.rows))


def _expanded(node: fx.Node, named: dict[str, Any]) -> Affine:
    value, shape = _value(named), node.meta["val"].shape
    if len(shape) != value.shift.dim():
        raise NotAffine("it is repeated along a new dimension")
    sizes = [-1 if d in value.rows else shape[d] for d in range(len(shape))]
    if sizes == [-1 if d in value.rows else value.shift.shape[d] for d in range(len(shape))]:
        return value
    return value.dense().map(lambda part: part.expand(sizes))


def _taken(node: fx.Node, named: dict[str, Any]) -> Affine:
    """Some of the features along one dimension."""
    value = _feature_dim(named)
    operator_, rest = node.target, {key: item for key, item in named.items() if key != "self"}
    gone = named["dim"] % value.shift.dim() if node.target is _aten.select.int else value.shift.dim()
    return value.map(lambda part: operator_(part, **rest), tuple(row - (row > gone) for row in value.rows))  # type: ignore[operator]


def _feature_dim(named: dict[str, Any]) -> Affine:
    value = _value(named).dense()
    if named["dim"] % value.shift.dim() in value.rows:
        raise NotAffine("it takes some of the rows")
    return value


def _split(node: fx.Node, named: dict[str, Any]) -> tuple[Affine, ...]:
    value, rest = _feature_dim(named), {key: item for key, item in named.items() if key != "self"}
    linear, shift = (node.target(part, **rest) for part in (value.linear, value.shift))  # type: ignore[operator]
    gone = named["dim"] % value.shift.dim() if node.target is _aten.unbind.int else value.shift.dim()
    rows = tuple(row - (row > gone) for row in value.rows)
    return tuple(replace(value, linear=first, shift=second, rows=rows) for first, second in zip(linear, shift, strict=True))


def _item(node: fx.Node, named: dict[str, Any]) -> Affine:
    pieces, index = named.values()
    piece: Affine = pieces[index]
    return piece


def _reduced(node: fx.Node, named: dict[str, Any]) -> Affine:
    value = _value(named).dense()
    count = value.shift.dim()
    dims = named["dim"]
    dims = [*range(count)] if not dims else [d % count for d in ([dims] if isinstance(dims, int) else dims)]
    if any(d in value.rows for d in dims):
        raise NotAffine("it adds rows up")
    reduce = torch.mean if node.target is _aten.mean.dim else torch.sum
    rows = value.rows if named["keepdim"] else tuple(row - sum(d < row for d in dims) for row in value.rows)
    return value.map(lambda part: reduce(part, dims, keepdim=named["keepdim"]), rows)


def _joined(node: fx.Node, named: dict[str, Any]) -> Affine:
    values = [value.dense() for value in named["tensors"] if isinstance(value, Affine)]
    first = values[0]
    alike = [(value.rows, value.window, value.inputs) == (first.rows, first.window, first.inputs) for value in values]
    if len(values) < len(named["tensors"]) or not all(alike):
        raise NotAffine("it joins values of different rows")
    dim = named["dim"] % first.shift.dim()
    if dim in first.rows:
        raise NotAffine("it joins rows")
    linear, shift = (torch.cat([getattr(value, part) for value in values], dim) for part in ("linear", "shift"))
    return replace(first, linear=linear, shift=shift)


def _padded(node: fx.Node, named: dict[str, Any]) -> Affine:
    value = _value(named).dense()
    pad, count = named["pad"], value.shift.dim()
    touched = [count - 1 - position // 2 for position, size in enumerate(pad) if size]
    if named.get("mode", "constant") != "constant" or named["value"] or any(d in value.rows for d in touched):
        raise NotAffine("it pads with other values than zeros, or rows")

    def padded(part: Tensor) -> Tensor:
        return torch.nn.functional.pad(part, [*pad])

    return value.map(padded)


_VIEWS = (_aten.view.default, _aten.reshape.default, _aten.flatten.using_ints, _aten.unflatten.int, _aten._unsafe_view.default)
_PERMUTES = (_aten.permute.default, _aten.transpose.int, _aten.numpy_T.default, _aten.t.default)
_TAKES = (_aten.slice.Tensor, _aten.select.int, _aten.index_select.default, _aten.narrow.default)
_SPLITS = (_aten.split.Tensor, _aten.split_with_sizes.default, _aten.chunk.default, _aten.unbind.int)

MOVES: dict[Any, Callable[[fx.Node, dict[str, Any]], Any]] = {
    **dict.fromkeys(_VIEWS, _viewed),
    **dict.fromkeys(_PERMUTES, _permuted),
    **dict.fromkeys(_TAKES, _taken),
    **dict.fromkeys(_SPLITS, _split),
    operator.getitem: _item,
    _aten.unsqueeze.default: _unsqueezed,
    _aten.squeeze.dim: _squeezed,
    _aten.expand.default: _expanded,
    _aten.sum.dim_IntList: _reduced,
    _aten.mean.dim: _reduced,
    _aten.cat.default: _joined,
    _aten.pad.default: _padded,
    _aten.constant_pad_nd.default: _padded,
}
"""Operators that change where features stand, or add them up."""
