"""x * a + b, x / a - b, a - x, -x ==> x * gain + shift in float64, one number for all or one a channel; chains of them as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from fxpress_ir import Edit
from fxpress_ir.analysis.cones import constant_axis
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from .readers import readers

_aten = torch.ops.aten
_PRODUCTS = frozenset({_aten.mul.Tensor, _aten.mul.Scalar})
_QUOTIENTS = frozenset({_aten.div.Tensor, _aten.div.Scalar})
_SUMS = frozenset({_aten.add.Tensor, _aten.add.Scalar})
_DIFFERENCES = frozenset({_aten.sub.Tensor, _aten.sub.Scalar})
_STEPS = _PRODUCTS | _QUOTIENTS | _SUMS | _DIFFERENCES | {_aten.rsub.Scalar, _aten.neg.default}
_PRECISE = (torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class Affine:
    """x * gain + shift.

    Attributes:
        gain, shift: float64, of shape [] or [channels].
        axis: the dimension of the channels; None where both are numbers.
    """

    gain: Tensor
    shift: Tensor
    axis: int | None

    def then(self, other: Affine) -> Affine:
        """`other` after this one; their axes are equal, or one has none."""
        axis = self.axis if self.axis is not None else other.axis
        return Affine(self.gain * other.gain, self.shift * other.gain + other.shift, axis)

    def agrees(self, other: Affine) -> bool:
        return None in (self.axis, other.axis) or self.axis == other.axis

    @property
    def shifts(self) -> bool:
        return bool(self.shift.any())

    @property
    def is_finite(self) -> bool:
        return bool(self.gain.isfinite().all() and self.shift.isfinite().all())

    def along(self, count: int) -> tuple[Tensor, Tensor]:
        """Gain and shift of `count` channels."""
        return self.gain.expand(count), self.shift.expand(count)


@dataclass(frozen=True, eq=False)
class Chain:
    """Steps in a row, each the only reader of the one before, as one affine function of `source`."""

    source: fx.Node
    nodes: tuple[fx.Node, ...]
    affine: Affine

    @property
    def tip(self) -> fx.Node:
        return self.nodes[-1]


def step(edit: Edit, node: fx.Node) -> tuple[fx.Node, Affine] | None:
    """The value that a node reads and what it makes of it; None where that is no affine function of one value, channel by channel."""
    if node.op != "call_function" or node.target not in _STEPS or node.meta["val"].dtype not in _PRECISE:
        return None
    named = arguments(node)
    first, second = named["self"], named.get("other")
    operands = [value for value in (first, second) if isinstance(value, fx.Node) and value.op != "get_attr"]
    axis = constant_axis(node)
    if len(operands) != 1 or isinstance(axis, str) or not _same_kind(operands[0], node):
        return None
    (source,) = operands
    behind = source is second
    if behind and node.target in _QUOTIENTS:
        return None
    constant = _values(edit, first if behind else second)
    return source, _affine(node, constant, named.get("alpha", 1), behind, axis)


def _same_kind(source: fx.Node, node: fx.Node) -> bool:
    """Nothing is broadcast or converted; sizes are compared as text, so that no guard is remembered."""
    before, after = source.meta["val"], node.meta["val"]
    return before.dtype == after.dtype and str(before.shape) == str(after.shape)


def _values(edit: Edit, constant: Any) -> Tensor:
    """A constant as a number or a vector."""
    if isinstance(constant, fx.Node):
        tensor = edit.tensor(constant).detach().double()
        return tensor.reshape([]) if tensor.numel() == 1 else tensor.flatten()
    return torch.tensor(1.0 if constant is None else float(constant), dtype=torch.float64)


def _affine(node: fx.Node, constant: Tensor, alpha: float, behind: bool, axis: int | None) -> Affine:
    one, none = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    if node.target in _PRODUCTS:
        return Affine(constant, none, axis)
    if node.target in _QUOTIENTS:
        return Affine(1 / constant, none, axis)
    if node.target is _aten.neg.default:
        return Affine(-one, none, None)
    if node.target is _aten.rsub.Scalar:
        return Affine(-one * alpha, constant, axis)
    sign = 1 if node.target in _SUMS else -1
    return Affine(one * alpha * sign, constant, axis) if behind else Affine(one, constant * alpha * sign, axis)


def chain(edit: Edit, head: fx.Node) -> Chain | None:
    """The longest chain that begins with a node; None where that is no step."""
    found = step(edit, head)
    if found is None:
        return None
    source, affine = found
    nodes = [head]
    while len(readers(nodes[-1])) == 1:
        (reader,) = readers(nodes[-1])
        more = step(edit, reader)
        if more is None or not affine.agrees(more[1]):
            break
        nodes.append(reader)
        affine = affine.then(more[1])
    return Chain(source, tuple(nodes), affine)
