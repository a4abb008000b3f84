"""Rows ==> their largest value, exponentials from a table, and these over their sum: a reciprocal a row, 16 products at a time."""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES
from .operand import Call, Expr, over
from .reciprocal import reciprocal


def softmax(call: Call) -> None:
    """Products and rounding terms reach 2**31, so they are unsigned."""
    (source,), output, (table, seeds) = call.inputs, call.output, call.constants
    count, bits, kind = source.logical_channels, call.attributes["bits"], f"uint32x{LANES}"

    def row(outer: list[Expr]) -> None:
        exponentials = T.alloc_buffer((output.channels,), "int32")
        most, total = T.alloc_buffer((1,), "int32"), T.alloc_buffer((1,), "int32")
        T.buffer_store(most, T.Cast("int32", source.load(outer, 0)), [0])
        T.buffer_store(total, T.int32(0), [0])
        with T.serial(count) as channel:
            T.buffer_store(most, T.max(most[0], T.Cast("int32", source.load(outer, channel))), [0])
        with T.serial(count) as channel:
            found = T.bind(table[most[0] - T.Cast("int32", source.load(outer, channel))])
            T.buffer_store(exponentials, found, [channel])
            T.buffer_store(total, total[0] + found, [0])
        factor, n = reciprocal(seeds, total[0])
        shift = T.bind(T.Cast("uint32", T.min(n + (16 - bits), T.int32(31))))
        half = T.bind(T.shift_left(T.uint32(1), shift - T.uint32(1)))
        with T.serial(output.blocks) as block:
            value = T.Cast(kind, exponentials[T.Ramp(block * LANES, 1, LANES)]) * T.Broadcast(T.Cast("uint32", factor), LANES)
            shares = T.shift_right(value + T.Broadcast(half, LANES), T.Broadcast(shift, LANES))
            held = T.min(shares, T.Broadcast(T.uint32(call.attributes["most"]), LANES))
            output.store_lanes(T.Cast(f"{output.spec.dtype}x{LANES}", held), outer, block * LANES)

    over(output, row)
