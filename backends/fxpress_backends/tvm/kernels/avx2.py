"""acc[16] += x[2] . w[16][2]: tiles of AVX2's products of s16 pairs, 8 sums a register; words of 4 bytes are two pairs of 16 bits.

Two products of u8 or s16 with s8 weights are far from the ends of s32, so that unlike ``vpmaddubsw`` nothing saturates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES, PAIR, WORD
from .operand import Call, Expr
from .vnni import Tile

SUMS = 8
"""int32 in 256 bits."""
_SHORTS = SUMS * PAIR


class ShortTile(Tile):
    """A tile over 16-bit values, whose vectors of 16 sums are two registers each."""

    word: ClassVar[int] = PAIR
    element: ClassVar[str] = "int16"

    def step(self, words: Any, positions: Sequence[Expr], depth: Expr) -> None:
        weight, halves = self._call.constants[0], range(self.word // PAIR)
        places = [(half, part) for half in halves for part in range(LANES // SUMS)]
        weights = [
            {place: T.bind(weight[self._first + vector, depth, T.Ramp(_start(*place), 1, _SHORTS)]) for place in places}
            for vector in self._vectors
        ]
        for position, sums in zip(positions, self._sums, strict=True):
            pairs = [T.bind(pair) for pair in self._pairs(T.bind(T.Broadcast(words[position], SUMS)))]
            for vector, (half, part) in ((vector, place) for vector in self._vectors for place in places):
                some = T.Ramp(part * SUMS, 1, SUMS)
                T.buffer_store(sums[vector], add_products(sums[vector][some], pairs[half], weights[vector][half, part]), [some])

    def _pairs(self, word: Expr) -> tuple[Expr, ...]:
        """A word in every lane (int32x8) ==> the pairs in it (int16x16)."""
        return (T.reinterpret(f"int16x{_SHORTS}", word),)


class ByteTile(ShortTile):
    """A tile over bytes: a pair is made of channels 0 and 2 of each word, another of 1 and 3, by shifts alone."""

    word: ClassVar[int] = WORD
    element: ClassVar[str] = "int8"

    def _pairs(self, word: Expr) -> tuple[Expr, ...]:
        signed = self._call.inputs[0].spec.dtype == "int8"
        kind = "int16" if signed else "uint16"
        eight = T.Broadcast(getattr(T, kind)(8), _SHORTS)
        value = T.reinterpret(f"{kind}x{_SHORTS}", word)
        low = T.shift_right(T.shift_left(value, eight), eight) if signed else T.bitwise_and(value, T.Broadcast(T.uint16(255), _SHORTS))
        return tuple(T.reinterpret(f"int16x{_SHORTS}", pair) for pair in (low, T.shift_right(value, eight)))


def _start(half: int, part: int) -> int:
    """Where the weights of 8 lanes start at a depth."""
    return half * LANES * PAIR + part * _SHORTS


def pair_tile(call: Call) -> type[Tile]:
    """The tile for what the call reads."""
    return ShortTile if call.inputs[0].spec.dtype == "int16" else ByteTile


def add_products(accumulator: Expr, pairs: Expr, weights: Expr) -> Expr:
    """int32x8 plus 8 dot products of two s16 with two s16 (each int16x16); it wraps, as sums do elsewhere."""
    return accumulator + T.call_llvm_pure_intrin(f"int32x{SUMS}", "llvm.x86.avx2.pmadd.wd", pairs, weights)
