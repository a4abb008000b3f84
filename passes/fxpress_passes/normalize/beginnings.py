"""operator ==> whether it must give, of the beginnings of its operands, the beginning of its result, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fxpress_ir.ops import SHAPE_OPERATORS, arguments
from torch import Tensor, fx

from .size_values import is_elementwise, read_values

_aten = torch.ops.aten
Rule = Callable[[fx.Node], bool]


def keeps_beginnings(node: fx.Node) -> bool:
    """The result at any sizes is the beginning of that at larger ones, where this holds for the operands.

    False says nothing: such a value has to be computed at every size. Of functions on floats only those count here that
    IEEE 754 rounds correctly: the others may differ in bits between the vectors of a kernel and its remainder.
    """
    packet = node.target.overloadpacket  # type: ignore[union-attr]
    if not all(isinstance(size, int) or size.node.expr.is_symbol for size in node.meta["val"].shape):
        return False  # sizes that are computed need not grow with those that they are computed from
    if packet in _RULES:
        return _RULES[packet](node)
    if not is_elementwise(node):
        return False
    value = node.meta["val"]
    rounded = (value.is_floating_point() and packet not in _EXACT_ON_FLOATS) or value.is_complex()
    return not rounded and _fixed_numbers(node) and all(_spread(used.meta["val"], value) for used in read_values(node))


def _fixed_numbers(node: fx.Node) -> bool:
    named = arguments(node)
    sizes = [value for value in named.values() if isinstance(value, fx.Node) and not isinstance(value.meta["val"], Tensor)]
    return not sizes and named.get("alpha", 1) == 1 and named.get("rounding_mode") is None


def _spread(operand: Tensor, result: Tensor) -> bool:
    """Each dimension of the operand is 1 or the result's."""
    pairs = zip(reversed(operand.shape), reversed(result.shape), strict=False)
    return all(str(size) in ("1", str(wanted)) for size, wanted in pairs)


def _always(node: fx.Node) -> bool:
    return True


def _whole_numbers(node: fx.Node) -> bool:
    return not node.meta["val"].is_floating_point()


def _counts_up(node: fx.Node) -> bool:
    """``arange`` of whole numbers from a fixed start by a fixed step."""
    named = arguments(node)
    return _whole_numbers(node) and all(isinstance(named.get(name, 1), int) for name in ("start", "step"))


def _fills(node: fx.Node) -> bool:
    return not isinstance(arguments(node).get("fill_value"), fx.Node)


def _cuts(node: fx.Node) -> bool:
    named = arguments(node)
    return isinstance(named["start"] or 0, int) and (named["start"] or 0) >= 0 and isinstance(named["step"], int)


def _sums_along(node: fx.Node) -> bool:
    """Whole numbers summed, or subtracted from the next one, from the first on."""
    named = arguments(node)
    before = named.get("prepend")
    fixed = before is None or isinstance(before.meta["val"].shape[named["dim"]], int)
    return _whole_numbers(node) and fixed and named.get("append") is None


def _casts(node: fx.Node) -> bool:
    """Not from floats to whole numbers, which may lie outside their range."""
    return node.meta["val"].is_floating_point() or _whole_numbers(node.args[0])  # type: ignore[arg-type]


def _joins(node: fx.Node) -> bool:
    """Along a dimension of fixed size."""
    named = arguments(node)
    return all(isinstance(used.meta["val"].shape[named["dim"]], int) for used in named["tensors"])


def _takes(node: fx.Node) -> bool:
    """Elements of a constant by indices, which decide where they are taken from."""
    named = arguments(node)
    return bool((named.get("weight") or named["self"]).op == "get_attr")


def _indexes(node: fx.Node) -> bool:
    """Elements of a value by indices that are not negative; those would count from its end."""
    indices = arguments(node)["indices"]
    return all(index is not None and index.meta["val"].dtype != torch.bool and not _may_be_negative(index) for index in indices)


def _may_be_negative(node: fx.Node) -> bool:
    """Unless it was counted up from 0, and since then moved, cast or increased."""
    if node.target is _aten.arange.default:
        return False
    cast = node.target is _aten.to.dtype and node.meta["val"].dtype in (torch.int32, torch.int64)
    increased = node.target is _aten.add.Tensor and isinstance(node.args[1], int) and node.args[1] >= 0 and _fixed_numbers(node)
    kept = node.target in SHAPE_OPERATORS or cast or increased
    return not kept or _may_be_negative(node.args[0])  # type: ignore[arg-type]


def _triangle(node: fx.Node) -> bool:
    return isinstance(arguments(node)["diagonal"], int)


_EXACT_ON_FLOATS = frozenset(
    {
        _aten.add, _aten.sub, _aten.rsub, _aten.mul, _aten.div, _aten.neg, _aten.abs, _aten.maximum, _aten.minimum, _aten.where,
        _aten.masked_fill,
    }
)  # fmt: skip
_RULES: dict[Any, Rule] = {
    _aten.arange: _counts_up,
    **dict.fromkeys((_aten.full, _aten.new_full, _aten.full_like), _fills),
    **dict.fromkeys((_aten.ones, _aten.zeros, _aten.new_ones, _aten.new_zeros, _aten.ones_like, _aten.zeros_like), _always),
    **dict.fromkeys((_aten.unsqueeze, _aten.expand, _aten.permute, _aten.transpose, _aten.contiguous, _aten.clone), _always),
    **dict.fromkeys((_aten.to, _aten._to_copy), _casts),
    _aten.slice: _cuts,
    **dict.fromkeys((_aten.cumsum, _aten.diff), _sums_along),
    **dict.fromkeys((_aten.cat, _aten.concat), _joins),
    **dict.fromkeys((_aten.embedding, _aten.gather, _aten.index_select), _takes),
    _aten.index: _indexes,
    **dict.fromkeys((_aten.tril, _aten.triu), _triangle),
}
