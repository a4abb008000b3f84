"""Rows ==> rows whose halves are turned: first * C - second * S and second * C + first * S, 16 values at a time."""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES
from .elementwise import spread
from .epilogue import rounded, store
from .heads import Heads
from .operand import Call, Expr, lanes, over


def rotary(call: Call) -> None:
    """Halves of whole vectors are loaded one after the other; of others, lanes change places in registers."""
    x, cosine, sine = call.inputs
    heads, first, width = call.attributes["heads"]
    source = Heads.of(x, heads, first, width) if heads else x
    half, blocks = call.output.spec.logical_channels // 2, call.output.spec.channels // LANES

    def turned(outer: list[Expr], value: Expr, other: Expr, channel: Expr) -> None:
        products = value * spread(cosine, call.output, outer, channel), other * spread(sine, call.output, outer, channel)
        store(call, rounded(products[0] + products[1], call.attributes), outer, channel)

    def halves(outer: list[Expr]) -> None:
        with T.serial(half // LANES) as block:
            values = [T.bind(source.integers(outer, place)) for place in (block * LANES, half + block * LANES)]
            turned(outer, values[0], lanes(0) - values[1], block * LANES)
            turned(outer, values[1], values[0], half + block * LANES)

    def mixed(outer: list[Expr]) -> None:
        values = [T.bind(source.integers(outer, block * LANES)) for block in range(blocks)]
        for block in range(blocks):
            turned(outer, values[block], _other(values, block * LANES, half), block * LANES)

    over(call.output, mixed if half % LANES else halves)


def _other(values: list[Expr], channel: int, half: int) -> Expr:
    """For 16 channels the values of the other half, those of the second half negated; lanes beyond the last channel repeat the first."""
    places = [place + half if place < half else place - half if place < 2 * half else 0 for place in range(channel, channel + LANES)]
    blocks = sorted({place // LANES for place in places})
    indices = [T.int32(blocks.index(place // LANES) * LANES + place % LANES) for place in places]
    other = T.bind(T.Shuffle([values[block] for block in blocks], indices))
    return T.Select(T.Ramp(channel, 1, LANES) < lanes(half), lanes(0) - other, other)
