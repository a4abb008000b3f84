"""weight * (x * rsqrt(mean(x ** 2, -1) + eps)) ==> rms_norm(x, weight, eps)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from fxpress_ir import Program
from fxpress_ir.ops import arguments
from torch import fx

from ..contract import Close, Context, Pass, Promise

_aten = torch.ops.aten


@dataclass(frozen=True)
class _Norm:
    """What a chain of operators computes: x over its root mean square, times a constant weight where there is one."""

    x: fx.Node
    weight: fx.Node | None
    eps: float
    size: int


@dataclass(frozen=True)
class ComposeRmsNorm(Pass):
    """Put root-mean-square normalisation that is written in single operators back together."""

    name: ClassVar[str] = "compose-rms-norm"
    promise: ClassVar[Promise] = Close(1e-5, "the fused operator takes the mean and the product in another order")
    after: ClassVar[tuple[str, ...]] = ("remove-noops",)

    def apply(self, program: Program, context: Context) -> Program:
        found: list[tuple[fx.Node, _Norm]] = []
        for node in program.graph.nodes:
            norm = _normalised(node)
            if isinstance(norm, str):
                context.refuse(node, norm, "it stays as it is written")
            elif norm is not None:
                found.append(_with_weight(node, norm))
        if not found:
            return program
        edit = program.edit()
        for root, norm in found:
            node, weight = edit.here(root), norm.weight and edit.here(norm.weight)
            with edit.graph.inserting_before(node):
                composed = edit.call(_aten.rms_norm.default, edit.here(norm.x), [norm.size], weight, norm.eps, like=node)
            edit.replace(node, composed)
        return edit.finish()


def _normalised(node: fx.Node) -> _Norm | str | None:
    """``x * rsqrt(mean(x ** 2) + eps)``, either operand first; a reason where it is one of another kind."""
    for x, factor in _orders(node, _aten.mul.Tensor):
        if not isinstance(factor, fx.Node) or factor.target is not _aten.rsqrt.default:
            continue
        for mean, eps in _orders(arguments(factor)["self"], _aten.add.Tensor, _aten.add.Scalar):
            means = isinstance(mean, fx.Node) and mean.target is _aten.mean.dim
            if means and isinstance(x, fx.Node) and _square_of(arguments(mean)["self"]) is x:
                return _over_last(x, mean, eps)
    return None


def _over_last(x: fx.Node, mean: fx.Node, eps: Any) -> _Norm | str:
    named, value = arguments(mean), x.meta["val"]
    if not isinstance(eps, (int, float)):
        return "its epsilon is computed"
    if [dim % value.dim() for dim in named["dim"] or []] != [value.dim() - 1] or not named["keepdim"]:
        return "it normalises over another dimension than the last"
    if not isinstance(value.shape[-1], int):
        return "its last dimension is symbolic"
    if value.dtype != torch.float32:
        return f"it computes in {value.dtype}"
    return _Norm(x, None, float(eps), value.shape[-1])


def _with_weight(node: fx.Node, norm: _Norm) -> tuple[fx.Node, _Norm]:
    """The product with a weight of the last dimension, where that alone reads the normalised value."""
    if len(node.users) != 1:
        return node, norm
    (user,) = node.users
    for value, weight in _orders(user, _aten.mul.Tensor):
        if value is node and isinstance(weight, fx.Node) and weight.op == "get_attr" and list(weight.meta["val"].shape) == [norm.size]:
            return user, _Norm(norm.x, weight, norm.eps, norm.size)
    return node, norm


def _orders(node: Any, *targets: Any) -> list[tuple[Any, Any]]:
    """The two operands of a call of one of `targets`, both ways round."""
    if not isinstance(node, fx.Node) or node.target not in targets or arguments(node).get("alpha", 1) != 1:
        return []
    named = arguments(node)
    return [(named["self"], named["other"]), (named["other"], named["self"])]


def _square_of(node: fx.Node) -> fx.Node | None:
    if node.target is _aten.pow.Tensor_Scalar and arguments(node)["exponent"] == 2:
        return node.args[0]  # type: ignore[return-value]
    if node.target is _aten.square.default:
        return node.args[0]  # type: ignore[return-value]
    squares = node.target is _aten.mul.Tensor and node.args[0] is node.args[1]
    return node.args[0] if squares else None  # type: ignore[return-value]
