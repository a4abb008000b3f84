"""add and requantize: one value in, one value out, 16 channels at a time."""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES
from .epilogue import finished, shifted, stored
from .operand import Call, Expr, Operand, fill_halo, lanes, over, parameter


def add(call: Call) -> None:
    """One rounding of ``x * bx + y * by``; a dimension of size 1 is read again and again."""
    output, settings = call.output, call.attributes
    multipliers = (settings["bx"], settings["by"])

    def position(outer: list[Expr]) -> None:
        with T.serial(output.spec.channels // LANES) as block:
            x, y = (_spread(operand, output, outer, block * LANES) * lanes(b) for operand, b in zip(call.inputs, multipliers, strict=True))
            output.store_lanes(stored(shifted(x + y, settings["shift"]), settings, output.spec), outer, block * LANES)

    fill_halo(output)
    over(output, position)


def _spread(operand: Operand, output: Operand, outer: list[Expr], channel: Expr) -> Expr:
    """16 integers of an operand whose dimensions may be 1 where the output's are not."""
    spec, wanted = operand.spec, output.spec
    sizes, wanted_sizes = (spec.lead, *spec.outer), (wanted.lead, *wanted.outer)
    at = [index if size == full else 0 for index, size, full in zip(outer, sizes, wanted_sizes, strict=True)]
    if spec.logical_channels == wanted.logical_channels:
        return operand.integers(at, channel)
    return T.Broadcast(T.Cast("int32", operand.load(at, 0)) - spec.zero, LANES)


def requantize(call: Call) -> None:
    """Multipliers along one dimension; ``axis`` counts the physical loops, the channels last."""
    (source,), output, settings = call.inputs, call.output, call.attributes
    (table,) = call.constants
    channel_axis = len(output.spec.outer) + 1

    def position(outer: list[Expr]) -> None:
        with T.serial(output.spec.channels // LANES) as block:
            channel = block * LANES
            if settings["axis"] == channel_axis:
                rows = tuple(parameter(table, row, channel) for row in range(3))
            else:
                rows = tuple(T.Broadcast(table[row, outer[settings["axis"]]], LANES) for row in range(3))
            output.store_lanes(finished(source.integers(outer, channel), rows, settings, output.spec), outer, channel)

    fill_halo(output)
    over(output, position)
