"""add, multiply and requantize: one value in from each operand, one value out, 16 channels at a time."""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES
from .epilogue import finish, requantization, rounded, store
from .operand import Call, Expr, Operand, fill_halo, lanes, over_lanes


def add(call: Call) -> None:
    """One rounding of ``x * bx + y * by``; a dimension of size 1 is read again and again."""
    settings = call.attributes
    multipliers = (settings["bx"], settings["by"])

    def lane(outer: list[Expr], channel: Expr) -> None:
        x, y = (spread(operand, call.output, outer, channel) * lanes(b) for operand, b in zip(call.inputs, multipliers, strict=True))
        store(call, rounded(x + y, settings), outer, channel)

    fill_halo(call.output)
    over_lanes(call.output, lane)


def multiply(call: Call) -> None:
    """int32 products, requantised where a requantisation is fused; a dimension of size 1 is read again and again."""

    def lane(outer: list[Expr], channel: Expr) -> None:
        x, y = (spread(operand, call.output, outer, channel) for operand in call.inputs)
        finish(call, x * y, requantization(call, channel), outer, channel)

    fill_halo(call.output)
    over_lanes(call.output, lane)


def requantize(call: Call) -> None:
    """Multipliers along one dimension; ``axis`` counts the physical loops, the channels last."""
    (source,), (table,), axis = call.inputs, call.constants, call.attributes["axis"]
    along_channels = axis == len(call.output.spec.outer) + 1

    def parameters(outer: list[Expr], channel: Expr) -> tuple[Expr, ...]:
        return requantization(call, channel) if along_channels else tuple(T.Broadcast(table[row, outer[axis]], LANES) for row in range(3))

    def lane(outer: list[Expr], channel: Expr) -> None:
        finish(call, source.integers(outer, channel), parameters(outer, channel), outer, channel)

    fill_halo(call.output)
    over_lanes(call.output, lane)


def spread(operand: Operand, output: Operand, outer: list[Expr], channel: Expr) -> Expr:
    """16 integers of an operand whose dimensions may be 1 where the output's are not."""
    spec, wanted = operand.spec, output.spec
    sizes, wanted_sizes = (spec.lead, *spec.outer), (wanted.lead, *wanted.outer)
    at = [index if size == full else 0 for index, size, full in zip(outer, sizes, wanted_sizes, strict=True)]
    if spec.logical_innermost == wanted.logical_innermost:
        return operand.integers(at, channel)
    return T.Broadcast(T.Cast("int32", operand.load(at, 0)) - spec.zero, LANES)
