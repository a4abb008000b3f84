"""Values copied 16 to 64 channels at a time: from any places of several operands, one operand after another, rows by number."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES
from .operand import Call, Expr, Operand, fill_halo, over


def gather(call: Call) -> None:
    """Positions by table, a part's fill where a table says -1; runs of channels (part, first, count) one after the other."""
    sources = [channel for part, first, count in call.attributes["runs"] for channel in ((part, first + i) for i in range(count))]
    blocks = [sources[first : first + LANES] for first in range(0, len(sources), LANES)]

    def position(outer: list[Expr]) -> None:
        parts = [_Reader(call, number, outer) for number in range(len(call.inputs))]
        block = 0
        while block < len(blocks):
            count = _straight(call, blocks, block)
            if count:
                part, first = blocks[block][0]
                _copy(parts[part].load, first, call.output, outer, block * LANES, count * LANES)
            else:
                call.output.store_lanes(_shuffled(parts, blocks[block]), outer, block * LANES)
            block += max(count, 1)

    fill_halo(call.output)
    over(call.output, position)


def concat(call: Call) -> None:
    """Along another dimension than the channels: each operand is copied to its place."""
    axis = call.attributes["axis"]
    fill_halo(call.output)
    place: Expr = 0
    for operand in call.inputs:
        _append(operand, call.output, axis, place)
        place = place + (operand.lead if axis == 0 else operand.outer[axis - 1])


def _append(operand: Operand, output: Operand, axis: int, place: Expr) -> None:
    def position(outer: list[Expr]) -> None:
        there = [index + place if number == axis else index for number, index in enumerate(outer)]
        _copy(lambda channel, wide: operand.load_lanes(outer, channel, wide), 0, output, there, 0, output.channels)

    over(operand, position)


def embedding(call: Call) -> None:
    """Rows of a table by number; a number outside it takes the nearest row, so that nothing else is ever read."""
    (numbers,), (table,), output = call.inputs, call.constants, call.output
    last = T.int64(int(table.shape[0]) - 1)

    def position(outer: list[Expr]) -> None:
        number = T.Cast("int64", numbers.load(outer[:-1], outer[-1]))
        row = T.bind(T.max(T.min(number, last), T.int64(0)))
        _copy(lambda channel, wide: table[row, T.Ramp(channel, 1, wide)], 0, output, outer, 0, output.channels)

    over(output, position)


class _Reader:
    """One part at one position of the result."""

    def __init__(self, call: Call, number: int, outer: Sequence[Expr]) -> None:
        self._operand, self._fill = call.inputs[number], call.attributes["fill"][number]
        tables = call.attributes["tables"][number]
        self._at = [index if table is None else T.bind(call.constants[table][index]) for index, table in zip(outer, tables, strict=True)]
        self._tabled = [index for index, table in zip(self._at, tables, strict=True) if table is not None]
        self._output = call.output

    def load(self, channel: Expr, wide: int) -> Expr:
        """Channels of the part, or its fill."""
        value = self._operand.load_lanes(self._at, channel, wide)
        if self._fill is None:
            return value
        spec = self._output.spec
        inside = T.bool(True)
        for index in self._tabled:
            inside = T.And(inside, index >= 0)
        return T.if_then_else(inside, value, T.Broadcast(T.Cast(spec.dtype, T.int32(self._fill + spec.zero)), wide))


def _straight(call: Call, blocks: Sequence[Sequence[tuple[int, int]]], block: int) -> int:
    """How many blocks from this one on hold successive channels of one part, without reading beyond its last one."""
    part, first = blocks[block][0]
    count = 0
    for number, sources in enumerate(blocks[block:]):
        start = first + number * LANES
        in_order = list(sources) == [(part, start + lane) for lane in range(len(sources))]
        if not in_order or start + LANES > call.inputs[part].spec.channels:
            break
        count += 1
    return count


def _copy(load: Callable[[Expr, int], Expr], first: int, output: Operand, outer: Sequence[Expr], start: int, count: Expr) -> None:
    """`count` channels, a multiple of 16, as wide as divides it."""
    wide = next(width for width in (64, 32, LANES) if count % width == 0) if isinstance(count, int) else LANES
    with T.serial(count // wide) as step:
        output.store_lanes(load(first + step * wide, wide), outer, start + step * wide, wide)


def _shuffled(parts: Sequence[_Reader], sources: Sequence[tuple[int, int]]) -> Expr:
    """16 channels from anywhere; lanes beyond the last channel repeat the first."""
    blocks = sorted({(part, channel // LANES) for part, channel in sources})
    lanes = [blocks.index((part, channel // LANES)) * LANES + channel % LANES for part, channel in sources]
    lanes += lanes[:1] * (LANES - len(lanes))
    return T.Shuffle([parts[part].load(block * LANES, LANES) for part, block in blocks], [T.int32(lane) for lane in lanes])
