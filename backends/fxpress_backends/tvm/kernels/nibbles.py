"""acc[16] += x[8] . w[16][8], w of 4 bits: bytes of two weights are split in registers, and multiplied as 16 times their values.

The upper half of a byte alone, its lower bits cleared, is 16 times a signed number of 4 bits; so is the lower one shifted up. Sums are
16 times what they stand for, the bias with them, until one shift at the end: `tvm.nibbles.fits` says that 32 bits hold them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..nibbles import SHIFT
from ..pack import BYTES, LANES, WORD
from .operand import Expr, lanes
from .vnni import Tile, dot

_ALL = T.Ramp(0, 1, LANES)
_UPPER = -0x0F0F0F10
"""The upper half of each byte of a word."""


class NibbleTile(Tile):
    """A step takes two words: those of the lower halves, then those of the upper ones."""

    word = 2 * WORD

    def step(self, words: Any, positions: Sequence[Expr], depth: Expr) -> None:
        weight = self._call.constants[0]
        pairs = [
            T.bind(T.reinterpret(f"int32x{LANES}", weight[self._first + vector, depth, T.Ramp(0, 1, BYTES)])) for vector in self._vectors
        ]
        for half in (0, 1):
            raised = [pair if half else T.shift_left(pair, lanes(SHIFT)) for pair in pairs]
            weights = [T.bind(T.reinterpret(f"int8x{BYTES}", T.bitwise_and(pair, lanes(_UPPER)))) for pair in raised]
            for position, sums in zip(self.elements(positions), self._sums, strict=True):
                word = T.bind(T.reinterpret(f"int8x{BYTES}", T.Broadcast(words[position + half], LANES)))
                for vector in self._vectors:
                    T.buffer_store(sums[vector], dot(sums[vector][_ALL], word, weights[vector]), [_ALL])

    @classmethod
    def elements(cls, positions: Sequence[Expr]) -> list[Expr]:
        return [position * 2 for position in positions]

    @classmethod
    def bytes_of_word(cls) -> int:
        return cls.word

    def finish(self, outers: Sequence[Sequence[Expr]]) -> None:
        for sums in self._sums:
            for vector in self._vectors:
                T.buffer_store(sums[vector], T.shift_right(sums[vector][_ALL], lanes(SHIFT)), [_ALL])
        super().finish(outers)
