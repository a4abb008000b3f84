"""symbolic size ==> int64 nodes over Shape; each shape operator ==> one Reshape, Transpose, Slice or Expand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from fxpress_ir.ops import arguments
from torch import fx

from .walk import Emit, Walk

_aten = torch.ops.aten
_BEYOND = np.iinfo(np.int64).max

_ARITHMETIC = {"Add": "Add", "Mul": "Mul", "FloorDiv": "Div"}
"""sympy's name ==> ONNX's. Sizes are not negative; "no division" is about values, not about shapes."""


def computable(expression: Any, symbols: frozenset[str]) -> bool:
    """A size (a sympy expression) is made of integers, `symbols` (what inputs have as a dimension) and the arithmetic above."""
    if str(expression) in symbols or expression.is_Integer:
        return True
    return expression.func.__name__ in _ARITHMETIC and all(computable(argument, symbols) for argument in expression.args)


def size(walk: Walk, expression: Any) -> ir.Value:
    """An int64 tensor of shape [1] that holds a computable size."""
    key = str(expression)
    if key not in walk.sizes:
        walk.sizes[key] = _emitted(walk, expression)
    return walk.sizes[key]


def _emitted(walk: Walk, expression: Any) -> ir.Value:
    if expression.is_Integer:
        return walk.constant(np.array([int(expression)], np.int64))
    for node in walk.program.placeholders():
        for position, candidate in enumerate(walk.shape(node)):
            if str(candidate) == str(expression):
                return walk.op("Shape", walk.values[node], start=position, end=position + 1)
    first, *rest = (size(walk, part) for part in expression.args)
    for part in rest:
        first = walk.op(_ARITHMETIC[expression.func.__name__], first, part)
    return first


def shape(walk: Walk, sizes: Sequence[Any]) -> ir.Value:
    """`sizes` (ints and SymInts) as an int64 tensor."""
    if all(isinstance(s, int) for s in sizes):
        return walk.constant(np.array(sizes, np.int64))
    parts = [walk.constant(np.array([s], np.int64)) if isinstance(s, int) else size(walk, s.node.expr) for s in sizes]
    return parts[0] if len(parts) == 1 else walk.op("Concat", *parts, axis=0)


def reshape(walk: Walk, value: ir.Value, sizes: Any) -> ir.Value:
    """`value` in the shape `sizes` (ints and SymInts); one symbolic size is left to Reshape, more are computed."""
    if sum(not isinstance(s, int) for s in sizes) <= 1:
        return walk.op("Reshape", value, walk.constant(np.array([s if isinstance(s, int) else -1 for s in sizes], np.int64)))
    return walk.op("Reshape", value, shape(walk, sizes))


def stretched(node: fx.Node) -> list[Any]:
    """The target shape of an ``expand`` as ONNX has it: 1 where a dimension keeps its size."""
    before, after = (node.args[0].meta["val"].shape, node.meta["val"].shape)  # type: ignore[union-attr]
    padded = [1] * (len(after) - len(before)) + list(before)
    return [1 if str(old) == str(new) else new for old, new in zip(padded, after, strict=True)]


def _reshaped(walk: Walk, node: fx.Node) -> ir.Value:
    """Every operator that keeps the order of elements."""
    return reshape(walk, walk.value(node.args[0]), walk.shape(node))  # type: ignore[arg-type]


def _unchanged(walk: Walk, node: fx.Node) -> ir.Value:
    return walk.value(node.args[0])  # type: ignore[arg-type]


def _permute(walk: Walk, node: fx.Node) -> ir.Value:
    named = arguments(node)
    rank = len(walk.shape(node))
    return walk.op("Transpose", walk.value(named["self"]), perm=[d % rank for d in named["dims"]])


def _transpose(walk: Walk, node: fx.Node) -> ir.Value:
    named = arguments(node)
    order = list(range(len(walk.shape(node))))
    first, second = named["dim0"] % len(order), named["dim1"] % len(order)
    order[first], order[second] = order[second], order[first]
    return walk.op("Transpose", walk.value(named["self"]), perm=order)


def _slice(walk: Walk, node: fx.Node) -> ir.Value:
    """Both count negative ends from the back and cut what lies beyond; an end may be a size of the inputs."""
    named = arguments(node)
    end = _BEYOND if named["end"] is None else named["end"].meta["val"] if isinstance(named["end"], fx.Node) else named["end"]
    bounds = ([value] for value in (named["start"] or 0, end, named["dim"] % len(walk.shape(node)), named["step"]))
    return walk.op("Slice", walk.value(named["self"]), *(shape(walk, bound) for bound in bounds))


def _expand(walk: Walk, node: fx.Node) -> ir.Value:
    sizes, value = stretched(node), walk.value(node.args[0])  # type: ignore[arg-type]
    if all(isinstance(s, int) and s == 1 for s in sizes):
        return reshape(walk, value, walk.shape(node))
    return walk.op("Expand", value, shape(walk, sizes))


def _select(walk: Walk, node: fx.Node) -> ir.Value:
    """A scalar index drops its dimension; negative ones count from the back."""
    named = arguments(node)
    axis, index = named["dim"] % len(walk.shape(named["self"])), walk.constant(np.int64(named["index"]))
    return walk.op("Gather", walk.value(named["self"]), index, axis=axis)


def _embedding(walk: Walk, node: fx.Node) -> ir.Value:
    """Rows of the table as it is stored; one of 16 bits stays so in the file, the rows that are taken become int32."""
    named = arguments(node)
    table, indices = named["weight"], walk.value(named["indices"])
    if table.meta["val"].dtype != torch.int16:
        return walk.op("Gather", walk.value(table), indices)
    rows = walk.op("Gather", walk.constant(walk.array(table), str(table.target)), indices)
    return walk.op("Cast", rows, to=ir.DataType.INT32)


SHAPE_EMITTERS: dict[Any, Emit] = {
    _aten.flatten.using_ints: _reshaped,
    _aten.view.default: _reshaped,
    _aten.reshape.default: _reshaped,
    _aten.unsqueeze.default: _reshaped,
    _aten.squeeze.dim: _reshaped,
    _aten.squeeze.dims: _reshaped,
    _aten.permute.default: _permute,
    _aten.transpose.int: _transpose,
    _aten.slice.Tensor: _slice,
    _aten.select.int: _select,
    _aten.embedding.default: _embedding,
    _aten.expand.default: _expand,
    _aten.contiguous.default: _unchanged,
    _aten.clone.default: _unchanged,
}
