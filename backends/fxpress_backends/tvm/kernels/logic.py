"""compare, logical_and, logical_or and logical_not: integers in, bytes that are 0 or 1 out, 16 at a time."""

from __future__ import annotations

import operator
from collections.abc import Callable

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES
from .elementwise import spread
from .operand import Call, Expr, lanes, over_lanes

_RELATIONS: dict[str, Callable[[Expr, Expr], Expr]] = {
    "eq": lambda x, y: T.EQ(x, y),
    "ne": lambda x, y: T.NE(x, y),
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


def compare(call: Call) -> None:
    """Stored integers with a stored number, in their own type: int64 keeps its width."""
    (source,) = call.inputs
    relation = _RELATIONS[call.attributes["relation"]]
    number = T.Broadcast(T.Cast(source.spec.dtype, T.int64(call.attributes["number"])), LANES)

    def lane(outer: list[Expr], channel: Expr) -> None:
        _store(call, relation(source.load_lanes(outer, channel), number), outer, channel)

    over_lanes(call.output, lane)


def logical_and(call: Call) -> None:
    """A dimension of size 1 is read again and again."""
    _joined(call, lambda x, y: x & y)


def logical_or(call: Call) -> None:
    """A dimension of size 1 is read again and again."""
    _joined(call, lambda x, y: x | y)


def logical_not(call: Call) -> None:
    def lane(outer: list[Expr], channel: Expr) -> None:
        _store(call, T.EQ(call.inputs[0].integers(outer, channel), lanes(0)), outer, channel)

    over_lanes(call.output, lane)


def _joined(call: Call, join: Callable[[Expr, Expr], Expr]) -> None:
    def lane(outer: list[Expr], channel: Expr) -> None:
        _store(call, join(*(spread(operand, call.output, outer, channel) for operand in call.inputs)) > lanes(0), outer, channel)

    over_lanes(call.output, lane)


def _store(call: Call, holds: Expr, outer: list[Expr], channel: Expr) -> None:
    call.output.store_lanes(T.Cast(f"uint8x{LANES}", T.Select(holds, lanes(1), lanes(0))), outer, channel)
