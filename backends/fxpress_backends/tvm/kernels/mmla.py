"""acc[2][2] += x[2][8] . w[2][8]: tiles of Arm's products of matrices, two pixels by two channels a register.

Bytes of 8 channels with or without sign against s8 weights: ``smmla`` or ``usmmla``, so that no zero point is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import EIGHT, LANES
from .epilogue import finish, requantization
from .operand import Call, Expr, Operand
from .vnni import Tile

_SIDE = 2
_SUMS = _SIDE * _SIDE
_BYTES = _SIDE * EIGHT
_BLOCKS = LANES // _SIDE
"""Registers of 16 channels, for two pixels."""


class MatrixTile(Tile):
    """A tile whose pixels go by twos; the sums of two pixels and 16 channels are eight registers."""

    word: ClassVar[int] = EIGHT
    together: ClassVar[int] = _SIDE

    def __init__(self, call: Call, pixels: int, vectors: int, first_vector: Expr) -> None:
        self._call = call
        self._first = first_vector
        self._vectors = range(vectors)
        self._sums = [[T.alloc_buffer((_SIDE * LANES,), "int32") for _ in self._vectors] for _ in range(pixels // _SIDE)]
        bias = call.constants[1]
        for vector in self._vectors:
            for block in range(_BLOCKS):
                two = bias[T.Ramp((first_vector + vector) * LANES + block * _SIDE, 1, _SIDE)]
                start = T.bind(T.Shuffle([two, two], [T.int32(lane) for lane in range(_SUMS)]))
                for sums in self._sums:
                    T.buffer_store(sums[vector], start, [_place(block)])

    @staticmethod
    def words(source: Operand) -> Any:
        return source.flat()

    @classmethod
    def elements(cls, positions: Sequence[Expr]) -> list[Expr]:
        return [position * EIGHT for position in positions]

    @classmethod
    def bytes_of_word(cls) -> int:
        return EIGHT

    def step(self, words: Any, positions: Sequence[Expr], depth: Expr) -> None:
        weight, signed = self._call.constants[0], self._call.inputs[0].spec.dtype == "int8"
        instruction = f"llvm.aarch64.neon.{'smmla' if signed else 'usmmla'}"
        eights = [words[T.Ramp(position * EIGHT, 1, EIGHT)] for position in positions]
        order = [T.int32(byte) for byte in range(_BYTES)]
        twos = [T.bind(T.Shuffle(eights[first : first + _SIDE], order)) for first in range(0, len(eights), _SIDE)]
        for vector in self._vectors:
            for block in range(_BLOCKS):
                weights = T.bind(weight[self._first + vector, depth, T.Ramp(block * _BYTES, 1, _BYTES)])
                for two, sums in zip(twos, self._sums, strict=True):
                    total = T.call_llvm_pure_intrin(f"int32x{_SUMS}", instruction, sums[vector][_place(block)], two, weights)
                    T.buffer_store(sums[vector], total, [_place(block)])

    def finish(self, outers: Sequence[Sequence[Expr]]) -> None:
        for vector in self._vectors:
            channel = T.bind((self._first + vector) * LANES)
            rows = requantization(self._call, channel)
            for number, outer in enumerate(outers):
                sums, row = self._sums[number // _SIDE][vector], number % _SIDE
                order = [T.int32(block * _SUMS + row * _SIDE + lane) for block in range(_BLOCKS) for lane in range(_SIDE)]
                finish(self._call, T.bind(T.Shuffle([sums[_place(block)] for block in range(_BLOCKS)], order)), rows, outer, channel)


def _place(block: int) -> Any:
    """Where the sums of two pixels and two channels lie."""
    return T.Ramp(block * _SUMS, 1, _SUMS)
