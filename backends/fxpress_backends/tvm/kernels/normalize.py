"""Rows ==> their moments, 64-bit integers a row, then 16 normalised values at a time; gains and offsets in the same registers."""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES
from .epilogue import rounded, store
from .operand import Call, Expr, Operand, fill_halo, lanes, over, over_lanes, parameter

_ALL = T.Ramp(0, 1, LANES)


def normalize(call: Call) -> None:
    """int32 normalised values, or what an affine map that is fused makes of them; ``wide`` sums squares in 64 bits."""
    (source,), output, settings = call.inputs, call.output, call.attributes
    count, centre = source.spec.logical_channels, settings["centre"]

    def row(outer: list[Expr]) -> None:
        total, squares = _sums(source, outer, settings["wide"])
        moment = squares * count - total * total if centre else squares * count
        root, half_log = _reciprocal_root(call.constants[0], moment + T.int64(settings["epsilon"]))
        right, left = (T.bind(T.Cast("int32", T.max(shift, T.int64(0)))) for shift in (half_log - 9, 9 - half_log))
        mean, half = T.bind(T.Cast("int32", total)), T.bind(T.shift_right(T.shift_left(T.int32(1), right), T.int32(1)))
        with T.serial(output.spec.channels // LANES) as block:
            multiple = source.integers(outer, block * LANES) * lanes(count)
            deviation = multiple - T.Broadcast(mean, LANES) if centre else multiple
            scaled = T.shift_left(deviation, T.Broadcast(left, LANES)) + T.Broadcast(half, LANES)
            product = T.shift_right(scaled, T.Broadcast(right, LANES)) * T.Broadcast(root, LANES)
            _finish(call, T.shift_right(product + lanes(1 << 13), lanes(14)), outer, block * LANES)

    over(output, row)


def affine(call: Call) -> None:
    """Gains and offsets along one dimension; ``axis`` counts the physical loops, the channels last."""
    (source,), (table,), axis = call.inputs, call.constants, call.attributes["axis"]
    along_channels = axis == len(call.output.spec.outer) + 1

    def lane(outer: list[Expr], channel: Expr) -> None:
        gain, offset = (parameter(table, row, channel) if along_channels else T.Broadcast(table[row, outer[axis]], LANES) for row in (0, 1))
        store(call, rounded(source.integers(outer, channel) * gain + offset, call.attributes), outer, channel)

    fill_halo(call.output)
    over_lanes(call.output, lane)


def _finish(call: Call, value: Expr, outer: list[Expr], channel: Expr) -> None:
    if "shift" not in call.attributes:
        call.output.store_lanes(value, outer, channel)
        return
    gain, offset = (parameter(call.constants[1], row, channel) for row in (0, 1))
    store(call, rounded(value * gain + offset, call.attributes), outer, channel)


def _sums(source: Operand, outer: list[Expr], wide: bool) -> tuple[Expr, Expr]:
    """The sums of a row's values and of their squares, int64; what is stored beyond the last value does not count."""
    kind, (blocks, rest) = "int64" if wide else "int32", divmod(source.spec.logical_channels, LANES)
    sums, squares = T.alloc_buffer((LANES,), "int32"), T.alloc_buffer((LANES,), kind)

    def add(value: Expr) -> None:
        T.buffer_store(sums, sums[_ALL] + value, [_ALL])
        T.buffer_store(squares, squares[_ALL] + T.Cast(f"{kind}x{LANES}", value * value), [_ALL])

    for partial in (sums, squares):
        T.buffer_store(partial, T.Broadcast(T.Cast(partial.dtype, T.int32(0)), LANES), [_ALL])
    with T.serial(blocks) as block:
        add(T.bind(source.integers(outer, block * LANES)))
    if rest:
        add(T.bind(T.Select(lanes(rest) > _ALL, source.integers(outer, blocks * LANES), lanes(0))))
    return _across(sums), _across(squares)


def _across(partial: Expr) -> Expr:
    """The sum of 16 partial sums."""
    total = T.Cast("int64", partial[0])
    for lane in range(1, LANES):
        total = total + T.Cast("int64", partial[lane])
    return T.bind(total)


def _reciprocal_root(seeds: Expr, moment: Expr) -> tuple[Expr, Expr]:
    """R' = (R + 1) >> 1 (int32) and h = floor(log4 V) (int64) of a row; the table's steps count from 2**30."""

    def down(value: Expr, by: int) -> Expr:
        return T.shift_right(value, T.int64(by))

    v = T.bind(moment)
    half_log = T.bind(down(63 - T.Cast("int64", T.clz(v)), 1))
    zero = T.int64(0)
    m = T.bind(T.shift_right(T.shift_left(v, T.max(30 - 2 * half_log, zero)), T.max(2 * half_log - 30, zero)))
    start = T.bind(T.Cast("int64", seeds[down(m, 23) - 128]))
    rest = T.int64(1 << 54) - down(m, 8) * start * start
    root = start + down(start * down(rest, 24) + (1 << 30), 31)
    return T.bind(T.Cast("int32", down(root + 1, 1))), half_log
