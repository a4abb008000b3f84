"""Operator on an affine value ==> affine value: scalings, sums and products with constant matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from .affine import Affine, NotAffine
from .convolutions import CONVOLUTIONS
from .moves import MOVES

_aten = torch.ops.aten
Rule = Callable[[fx.Node, dict[str, Any]], Any]


@dataclass(frozen=True)
class Numbers:
    """A source of numbers of rows, of this shape."""

    sizes: tuple[Any, ...]


def _same(node: fx.Node, named: dict[str, Any]) -> Affine:
    value: Affine = next(iter(named.values()))
    return value


def _dropout(node: fx.Node, named: dict[str, Any]) -> Affine:
    if named["train"] and named["p"]:
        raise NotAffine("it drops values at random")
    return _same(node, named)


def _negated(node: fx.Node, named: dict[str, Any]) -> Affine:
    value: Affine = named["self"]
    return value.map(torch.neg)


def _scaled(value: Affine, factor: Any, scale: Callable[[Tensor, Any], Tensor] = torch.mul) -> Affine:
    if isinstance(factor, Tensor) and factor.dim() > value.shift.dim():
        raise NotAffine("a constant in it has more dimensions than the value")
    return value.map(lambda part: scale(part, factor)).checked(value.inputs)


def _multiplied(node: fx.Node, named: dict[str, Any]) -> Affine:
    left, right = named["self"], named["other"]
    if isinstance(left, Affine) and isinstance(right, Affine):
        raise NotAffine("it multiplies values that both depend on the input")
    return _scaled(left, right) if isinstance(left, Affine) else _scaled(right, left)


def _divided(node: fx.Node, named: dict[str, Any]) -> Affine:
    value, divisor = named["self"], named["other"]
    if isinstance(divisor, Affine):
        raise NotAffine("it divides by a value that depends on the input")
    return _scaled(value, divisor, torch.div)


def _sum(left: Any, right: Any, first: float, second: float) -> Affine:
    """first * left + second * right, of which one may be a constant."""
    if isinstance(left, Affine) and isinstance(right, Affine):
        return (left.map(lambda part: part * first) if first != 1 else left).plus(right, second)
    value, constant = (left, right) if isinstance(left, Affine) else (right, left)
    own, others = (first, second) if isinstance(left, Affine) else (second, first)
    if isinstance(constant, Tensor) and constant.dim() > value.shift.dim():
        raise NotAffine("a constant in it has more dimensions than the value")
    # a constant may have features that the value is broadcast along
    none = torch.zeros(constant.shape if isinstance(constant, Tensor) else (), dtype=torch.float64)
    return replace(value, linear=own * value.linear + none, shift=own * value.shift + others * constant).checked(value.inputs)


def _added(node: fx.Node, named: dict[str, Any]) -> Affine:
    return _sum(named["self"], named["other"], 1.0, float(named["alpha"]))


def _subtracted(node: fx.Node, named: dict[str, Any]) -> Affine:
    return _sum(named["self"], named["other"], 1.0, -float(named["alpha"]))


def _subtracted_from(node: fx.Node, named: dict[str, Any]) -> Affine:
    return _sum(named["self"], named["other"], -float(named["alpha"]), 1.0)


def _projected(value: Affine, weight: Tensor, bias: Tensor | None) -> Affine:
    """The value's last dimension through a layer of `weight` [outputs, inputs]."""
    last = value.shift.dim() - 1
    if last in value.rows:
        raise NotAffine("it mixes rows")
    shift = functional.linear(value.shift, weight, bias)
    if value.diagonal and value.features == (last,):
        return value.placed((weight * value.linear.reshape(-1)).T, shift, value.window)
    value = value.dense()
    return replace(value, linear=functional.linear(value.linear, weight), shift=shift)


def _linear(node: fx.Node, named: dict[str, Any]) -> Affine:
    return _projected(named["input"], named["weight"], named["bias"])


def _addmm(node: fx.Node, named: dict[str, Any]) -> Affine:
    if not isinstance(named["mat1"], Affine) or isinstance(named["self"], Affine):
        raise NotAffine("its matrix is no constant")
    product = _projected(named["mat1"], named["mat2"].T, None)
    return _sum(product, named["self"], float(named["alpha"]), float(named["beta"]))


def _product(node: fx.Node, named: dict[str, Any]) -> Affine:
    left, right = named.values()
    if isinstance(left, Affine) and isinstance(right, Affine):
        raise NotAffine("it multiplies values that both depend on the input")
    if isinstance(left, Affine) and right.dim() == 2:
        return _projected(left, right.T, None)
    value: Affine = left if isinstance(left, Affine) else right
    constant: Tensor = right if isinstance(left, Affine) else left
    contracted = value.shift.dim() - (1 if isinstance(left, Affine) else 2)
    if constant.dim() < 2 or not 2 <= constant.dim() <= value.shift.dim() or contracted in value.rows:
        raise NotAffine("it mixes rows")
    inputs, value = value.inputs, value.dense()
    return value.map(lambda part: part @ constant if isinstance(left, Affine) else constant @ part).checked(inputs)


def _einsum(node: fx.Node, named: dict[str, Any]) -> Affine:
    """A contraction of one value with constants, which share none of its rows' letters."""
    equation, operands = named["equation"].replace(" ", ""), named["tensors"]
    (place,) = (position for position, operand in enumerate(operands) if isinstance(operand, Affine))
    value: Affine = operands[place].dense()
    terms, _, result = equation.partition("->")
    terms = terms.split(",")
    dims = value.shift.dim()
    left, dots, right = terms[place].partition("...")
    hidden = dims - len(left) - len(right)
    letters = [*left, *(f".{count}" for count in range(hidden)), *right]
    if not result or any("..." in term for position, term in enumerate(terms) if position != place) or (hidden and not dots):
        raise NotAffine("it is a contraction that is not taken apart")
    head, dots, tail = result.partition("...")
    after = [*head, *(f".{count}" for count in range(hidden if dots else 0)), *tail]
    others = "".join(term for position, term in enumerate(terms) if position != place)
    rows = [letters[row] for row in value.rows]
    if len(set(letters)) != len(letters) or any(row not in after or row in others for row in rows):
        raise NotAffine("it mixes rows")

    def contracted(part: Tensor) -> Tensor:
        given = [part if position == place else operand for position, operand in enumerate(operands)]
        return torch.einsum(equation, given)

    return value.map(contracted, tuple(after.index(row) for row in rows)).checked(value.inputs)


def _embedded(node: fx.Node, named: dict[str, Any]) -> Affine:
    """Rows of a table by number: a linear function of the number's one-hot vector, its rows the table's."""
    numbers, table = named["indices"], named["weight"]
    if not isinstance(numbers, Numbers) or not isinstance(table, Tensor):
        raise NotAffine("it looks up rows by a computed number")
    rows = len(numbers.sizes)
    linear = table.reshape(table.shape[0], *[1] * (rows - 1), table.shape[1])
    return Affine(linear, torch.zeros_like(linear[:1]), tuple(range(rows)), numbers.sizes)


SAME: dict[Any, Rule] = {
    _aten.alias.default: _same,
    _aten.detach.default: _same,
    _aten.clone.default: _same,
    _aten.contiguous.default: _same,
    _aten.lift_fresh_copy.default: _same,
    _aten.to.dtype: _same,
    _aten.to.dtype_layout: _same,
    _aten.to.device: _same,
    _aten.type_as.default: _same,
    _aten._to_copy.default: _same,
    _aten.dropout.default: _dropout,
    _aten.feature_dropout.default: _dropout,
}
"""Operators that give their operand back."""

SCALINGS: dict[Any, Rule] = {
    _aten.neg.default: _negated,
    _aten.mul.Tensor: _multiplied,
    _aten.mul.Scalar: _multiplied,
    _aten.div.Tensor: _divided,
    _aten.div.Scalar: _divided,
    _aten.add.Tensor: _added,
    _aten.add.Scalar: _added,
    _aten.sub.Tensor: _subtracted,
    _aten.sub.Scalar: _subtracted,
    _aten.rsub.Scalar: _subtracted_from,
    _aten.rsub.Tensor: _subtracted_from,
}
"""Operators that work on each element by itself."""

PRODUCTS: dict[Any, Rule] = {
    _aten.linear.default: _linear,
    _aten.addmm.default: _addmm,
    _aten.mm.default: _product,
    _aten.bmm.default: _product,
    _aten.matmul.default: _product,
    _aten.einsum.default: _einsum,
    _aten.embedding.default: _embedded,
    **CONVOLUTIONS,
}
"""Operators that multiply by constant matrices."""

RULES: dict[Any, Rule] = {**SAME, **SCALINGS, **PRODUCTS, **MOVES}
"""Operator ==> what it makes of affine values; operands are `Affine`, constants float64 tensors."""

ONE_VARIES = frozenset({*PRODUCTS, *(target for target in SCALINGS if str(target).startswith(("aten.mul", "aten.div")))})
"""Operators of which no more than one operand may depend on the input."""
