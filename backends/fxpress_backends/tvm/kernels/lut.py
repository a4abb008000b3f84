"""y = table[byte]: one load an element, or byte permutes of a table that lies in four registers; 16-bit values on chords."""

from __future__ import annotations

from fxpress_ir.ops import CHORD_BITS
from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import BYTES, line
from .columns import Columns
from .lookup import LOOKUPS
from .operand import Call, Expr, fill_halo, over


def lut(call: Call) -> None:
    """One table, or one for each index of the physical dimension ``axis``, the channels last."""
    (source,), output, (table,) = call.inputs, call.output, call.constants
    axis = call.attributes.get("axis")

    def position(outer: list[Expr]) -> None:
        with T.serial(output.channels) as channel:
            row = 0 if axis is None else [*outer, channel][axis]
            output.store(table[row, T.Cast("int32", T.reinterpret("uint8", source.load(outer, channel)))], outer, channel)

    fill_halo(output)
    over(output, position)


def lut16(call: Call) -> None:
    """The chord between two knots, 128 codes apart, rounded half up; tables as in `lut`."""
    (source,), output, (table,) = call.inputs, call.output, call.constants
    axis = call.attributes.get("axis")

    def position(outer: list[Expr]) -> None:
        with T.serial(output.channels) as channel:
            row = 0 if axis is None else [*outer, channel][axis]
            code = T.bind(T.Cast("int32", source.load(outer, channel)) + (1 << 15))
            start, end = (T.bind(T.Cast("int32", table[row, T.shift_right(code, T.int32(CHORD_BITS)) + knot])) for knot in (0, 1))
            share = (end - start) * T.bitwise_and(code, T.int32((1 << CHORD_BITS) - 1)) + (1 << CHORD_BITS - 1)
            output.store(T.Cast(output.spec.dtype, start + T.shift_right(share, T.int32(CHORD_BITS))), outer, channel)

    fill_halo(output)
    over(output, position)


def lut_permute(call: Call) -> None:
    """64 bytes at a time along a row of pixels, or along a pixel's run of channels; the last ones moved back inside it."""
    (source,), output, (table,) = call.inputs, call.output, call.constants
    spec = output.spec
    inner = int(not isinstance(source, Columns) and bool(spec.outer) and isinstance(spec.outer[-1], int))
    count = line(spec) if inner else spec.channels

    fill_halo(output)
    given, stored = source.flat(), output.flat()

    def row(outer: list[Expr]) -> None:
        start = [*outer, 0] if inner else outer
        read, written = T.bind(source.offset(start)), T.bind(output.offset(start))
        find = LOOKUPS[call.attributes["lookup"]](lambda run: table[0, run])
        with T.serial(-(-count // BYTES)) as step:
            at = T.bind(T.min(step * BYTES, count - BYTES))
            byte = T.bind(T.reinterpret(f"int8x{BYTES}", given[T.Ramp(read + at, 1, BYTES)]))
            T.buffer_store(stored, T.reinterpret(f"{spec.dtype}x{BYTES}", find(byte)), [T.Ramp(written + at, 1, BYTES)])

    over(output, row, inner=inner)
