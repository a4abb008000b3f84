"""TIR ==> its parts, and an expression with other parts: what rewrites of whole kernels share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tvm import ir, tirx

BINARY = (
    tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Mod, tirx.FloorDiv, tirx.FloorMod, tirx.Min, tirx.Max,
    tirx.LShift, tirx.RShift, tirx.BitwiseAnd, tirx.BitwiseOr, tirx.BitwiseXor,
    tirx.EQ, tirx.NE, tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.And, tirx.Or,
)  # fmt: skip
_LEAVES = (ir.Var, tirx.IntImm, tirx.FloatImm, ir.StringImm)
_PARTS: dict[Any, tuple[str, ...]] = {
    tirx.Cast: ("value",),
    tirx.Not: ("a",),
    tirx.BitwiseNot: ("a",),
    tirx.Select: ("condition", "true_value", "false_value"),
    ir.TensorLoad: ("indices",),
    tirx.Ramp: ("base", "stride"),
    tirx.Broadcast: ("value",),
    tirx.Shuffle: ("vectors", "indices"),
    ir.Call: ("args",),
    tirx.BufferStore: ("value", "indices"),
    tirx.For: ("min", "extent", "body"),
    tirx.SeqStmt: ("seq",),
    tirx.Bind: ("value",),
    tirx.IfThenElse: ("condition", "then_case", "else_case"),
    tirx.Evaluate: ("value",),
    **dict.fromkeys(BINARY, ("a", "b")),
}
"""The fields of each kind of node that hold others."""


def parts_of(node: Any) -> list[Any]:
    """The expressions and statements directly inside another."""
    found: list[Any] = []
    for name in _PARTS.get(type(node), ()):
        value = getattr(node, name)
        found += [value] if isinstance(value, (ir.Expr, tirx.Stmt)) else [] if value is None else list(value)
    return found


def within(node: Any) -> Iterator[Any]:
    """A node and everything inside it."""
    yield node
    for part in parts_of(node):
        yield from within(part)


def lanes_of(expr: Any) -> int:
    """How many values an expression is."""
    _, _, count = str(expr.ty).rpartition("x")
    return int(count) if isinstance(expr.ty, ir.PrimType) and count.isdecimal() else 1


def element(expr: Any) -> str:
    """The type of one of them."""
    kind = str(expr.ty)
    return kind.rpartition("x")[0] if lanes_of(expr) > 1 else kind


def rebuilt(expr: Any, change: Callable[[Any], Any]) -> Any:
    """An expression whose direct parts are changed; vectors become scalars where their parts do.

    Raises:
        TypeError: a kind of expression that no kernel uses.
    """
    if isinstance(expr, _LEAVES):
        return expr
    if isinstance(expr, tirx.Cast):
        value = change(expr.value)
        return tirx.Cast(element(expr) if lanes_of(value) == 1 else str(expr.ty), value)
    if isinstance(expr, ir.TensorLoad):
        return tirx.BufferLoad(expr.source, [change(index) for index in expr.indices])
    if isinstance(expr, ir.Call):
        given = [change(argument) for argument in expr.args]
        narrowed = any(lanes_of(old) > 1 for old in expr.args if not isinstance(old, ir.StringImm))
        return ir.Call(expr.op, given, expr.attrs, list(expr.ty_args), ret_ty=element(expr) if narrowed else expr.ty)
    if isinstance(expr, (*BINARY, tirx.Not, tirx.BitwiseNot, tirx.Select)):
        return type(expr)(*map(change, parts_of(expr)))
    raise TypeError(f"no kernel has a {type(expr).__name__}")
