"""acc[16] += x[4] . w[16][4]: tiles of Arm's dot products, 4 sums a register, s8 words of 4 channels (u8 less 128) against s8 weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES, WORD
from .operand import Expr
from .vnni import Tile

_SUMS = 4
"""int32 in 128 bits."""
_BYTES = _SUMS * WORD
_SIGN_BITS = 0x80808080 - (1 << 32)
"""Turned over, u8 is s8 less 128."""


class SignedTile(Tile):
    """A tile whose vectors of 16 sums are four registers each."""

    def step(self, words: Any, positions: Sequence[Expr], depth: Expr) -> None:
        weight = self._call.constants[0]
        parts = range(LANES // _SUMS)
        weights = [
            [T.bind(weight[self._first + vector, depth, T.Ramp(part * _BYTES, 1, _BYTES)]) for part in parts] for vector in self._vectors
        ]
        for position, sums in zip(positions, self._sums, strict=True):
            value = words[position] ^ T.int32(_SIGN_BITS) if self._call.inputs[0].spec.dtype == "uint8" else words[position]
            word = T.bind(T.reinterpret(f"int8x{_BYTES}", T.Broadcast(value, _SUMS)))
            for vector, part in ((vector, part) for vector in self._vectors for part in parts):
                some = T.Ramp(part * _SUMS, 1, _SUMS)
                T.buffer_store(sums[vector], _dot(sums[vector][some], word, weights[vector][part]), [some])


def _dot(accumulator: Expr, word: Expr, weights: Expr) -> Expr:
    """int32x4 plus 4 dot products of four s8 with four s8."""
    return T.call_llvm_pure_intrin(f"int32x{_SUMS}", "llvm.aarch64.neon.sdot", accumulator, word, weights)
