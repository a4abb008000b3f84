"""acc[16] += x[4] . w[16][4]: tiles of NEON's widening products, 8 a time, two of which add up in 16 bits before 32 take them.

Words are s8 (u8 less 128), weights s8 from -127 on: two products are at most 2 * 128 * 127, which 16 bits hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import BYTES, LANES, PAIR, WORD
from .operand import Expr
from .quads import SIGNS
from .vnni import Tile

_SUMS = 4
"""int32 in 128 bits."""
_SHORTS = 8


class WideningTile(Tile):
    """A tile whose vectors of 16 sums are four registers each; a word's weights are 16 lanes of its first two channels, then the rest."""

    def step(self, words: Any, positions: Sequence[Expr], depth: Expr) -> None:
        weight = self._call.constants[0]
        parts, pairs = range(LANES // _SUMS), range(WORD // PAIR)
        weights = [
            [
                [T.bind(weight[self._first + vector, depth, T.Ramp(pair * BYTES // PAIR + part * _SHORTS, 1, _SHORTS)]) for part in parts]
                for pair in pairs
            ]
            for vector in self._vectors
        ]
        for position, sums in zip(positions, self._sums, strict=True):
            taken = [T.bind(self._pair(words, position, pair)) for pair in pairs]
            for vector, part in ((vector, part) for vector in self._vectors for part in parts):
                first, second = (_products(taken[pair], weights[vector][pair][part]) for pair in pairs)
                some = T.Ramp(part * _SUMS, 1, _SUMS)
                T.buffer_store(sums[vector], sums[vector][some] + _pairwise(first + second), [some])

    def _pair(self, words: Any, position: Expr, pair: int) -> Expr:
        """Two channels of a word in every lane, int8x8."""
        value = words[position]
        signed = T.bitwise_xor(value, T.int32(SIGNS)) if self._call.inputs[0].spec.dtype == "uint8" else value
        half = T.Cast("int16", T.shift_right(signed, T.int32(16 * pair)) if pair else signed)
        return T.reinterpret(f"int8x{_SHORTS}", T.Broadcast(half, _SUMS))


def _products(left: Expr, right: Expr) -> Expr:
    """Eight of bytes, int16x8."""
    return T.call_llvm_pure_intrin(f"int16x{_SHORTS}", "llvm.aarch64.neon.smull", left, right)


def _pairwise(products: Expr) -> Expr:
    """The sums of neighbours, int32x4."""
    return T.call_llvm_pure_intrin(f"int32x{_SUMS}", "llvm.aarch64.neon.saddlp", products)
