"""Rows of 16 channels ==> s16 pairs of two rows, or a row's channels as s16 pairs: what AVX2 multiplies, zero points taken off."""

from __future__ import annotations

from collections.abc import Sequence

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES, PAIR
from .avx2 import SUMS, add_products
from .operand import Expr, Operand

_SHORTS = SUMS * PAIR
_INTERLEAVED = [T.int32(row * LANES + lane) for lane in range(LANES) for row in range(PAIR)]


class RowPairs:
    """One matrix of an operand, packed [channels / 16, rows / 2, 16 pairs]; a row beyond the last one is 0."""

    def __init__(self, operand: Operand, place: Sequence[Expr], rows: Expr) -> None:
        self.count = (rows + PAIR - 1) // PAIR
        self._packed = T.alloc_buffer((operand.blocks * self.count * LANES * PAIR,), "int16")
        with T.serial(operand.blocks) as block, T.serial(self.count) as pair:
            taken = [_widened(operand, [*place, T.min(pair * PAIR + row, rows - 1)], block * LANES) for row in range(PAIR)]
            taken[1] = T.Select(T.Broadcast(pair * PAIR + 1 < rows, LANES), taken[1], T.Broadcast(T.int16(0), LANES))
            T.buffer_store(self._packed, T.Shuffle(taken, _INTERLEAVED), [T.Ramp(self._at(block, pair), 1, LANES * PAIR)])

    def _at(self, block: Expr, pair: Expr) -> Expr:
        return (block * self.count + pair) * (LANES * PAIR)

    def at(self, block: Expr, pair: Expr) -> list[Expr]:
        """The pairs of 16 channels as two of int16x16."""
        start = self._at(block, pair)
        return [T.bind(self._packed[T.Ramp(start + half * _SHORTS, 1, _SHORTS)]) for half in range(LANES // SUMS)]


class ChannelPairs:
    """Some rows of an operand, whose channels lie as pairs; those beyond the last one hold anything.

    Attributes:
        pairs: int32 of shape [rows, count].
        count: pairs of a row.
    """

    def __init__(self, operand: Operand, rows: int) -> None:
        self._operand, self.count = operand, operand.spec.channels // PAIR
        self.pairs = T.alloc_buffer((rows * self.count,), "int32")

    def take(self, places: Sequence[Sequence[Expr]]) -> None:
        """A row from each place."""
        for row, place in enumerate(places):
            with T.serial(self._operand.spec.channels // LANES) as block:
                words = T.reinterpret(f"int32x{SUMS}", _widened(self._operand, place, block * LANES))
                T.buffer_store(self.pairs, words, [T.Ramp(row * self.count + block * SUMS, 1, SUMS)])


def _widened(operand: Operand, place: Sequence[Expr], channel: Expr) -> Expr:
    """16 channels, int16x16."""
    value = T.Cast(f"int16x{LANES}", operand.load_lanes(place, channel))
    return value - T.Broadcast(T.int16(operand.spec.zero), LANES) if operand.spec.zero else value


def accumulate(sums: Expr, words: Expr, at: Expr, right: Sequence[Expr]) -> None:
    """sums[16] += the pair at a place of `words` times 16 pairs."""
    pair = T.bind(T.reinterpret(f"int16x{_SHORTS}", T.Broadcast(words[at], SUMS)))
    for half, some in enumerate(right):
        lanes = T.Ramp(half * SUMS, 1, SUMS)
        T.buffer_store(sums, add_products(sums[lanes], pair, some), [lanes])
