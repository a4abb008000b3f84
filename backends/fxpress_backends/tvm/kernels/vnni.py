"""acc[16] += x[4] . w[16][4]: tiles of AVX512-VNNI dot products, u8 words of 4 channels against s8 weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES, LINE, WORD
from . import prefetch
from .epilogue import finish, requantization
from .operand import Call, Expr, Operand

_ALL = T.Ramp(0, 1, LANES)


class Tile:
    """Accumulators of several pixels x several vectors of 16 channels; each lives in its own register.

    Class attributes:
        word: channels of each pixel that a step takes.
        element: what they are multiplied as.
        together: how many pixels one instruction takes.
    """

    word: ClassVar[int] = WORD
    element: ClassVar[str] = "int8"
    together: ClassVar[int] = 1

    def __init__(self, call: Call, pixels: int, vectors: int, first_vector: Expr) -> None:
        """Starts from the bias; `first_vector` counts channels by 16."""
        self._call = call
        self._first = first_vector
        self._vectors = range(vectors)
        self._sums = [[T.alloc_buffer((LANES,), "int32") for _ in self._vectors] for _ in range(pixels)]
        bias = call.constants[1]
        for vector in self._vectors:
            start = T.bind(bias[T.Ramp((first_vector + vector) * LANES, 1, LANES)])
            for sums in self._sums:
                T.buffer_store(sums[vector], start, [_ALL])

    @staticmethod
    def words(source: Operand) -> Any:
        """The input as `step` reads it."""
        return source.words()

    def step(self, words: Any, positions: Sequence[Expr], depth: Expr) -> None:
        """Add one word of every pixel, at `positions` in the input, times the weights at `depth`."""
        weight = self._call.constants[0]
        count = LANES * self.word
        weights = [T.bind(weight[self._first + vector, depth, T.Ramp(0, 1, count)]) for vector in self._vectors]
        for position, sums in zip(positions, self._sums, strict=True):
            word = T.bind(T.reinterpret(f"{self.element}x{count}", T.Broadcast(words[position], LANES)))
            for vector in self._vectors:
                T.buffer_store(sums[vector], self.dot(sums[vector][_ALL], word, weights[vector]), [_ALL])

    def ahead(self, words: Any, positions: Sequence[Expr], depth: Expr, word: Expr) -> None:
        """What the setting ``prefetch`` asks for at a step.

        Args:
            positions: where the next tile reads this step's words; none where it has no next one.
            word: this step's within a run of neighbours in memory.
        """
        prefetch.weights(self._call, self._first, len(self._vectors), depth)
        prefetch.inputs(self._call, words, self.elements(positions), word, LINE // self.bytes_of_word())

    @classmethod
    def elements(cls, positions: Sequence[Expr]) -> list[Expr]:
        """Positions as `words` counts its elements."""
        return list(positions)

    @classmethod
    def bytes_of_word(cls) -> int:
        return WORD

    def finish(self, outers: Sequence[Sequence[Expr]]) -> None:
        """Requantise and store each pixel at its outer indices of the output."""
        for vector in self._vectors:
            channel = T.bind((self._first + vector) * LANES)
            rows = requantization(self._call, channel)
            for outer, sums in zip(outers, self._sums, strict=True):
                finish(self._call, sums[vector][_ALL], rows, outer, channel)

    @staticmethod
    def dot(accumulator: Expr, word: Expr, weights: Expr) -> Expr:
        """`dot`."""
        return dot(accumulator, word, weights)


def dot(accumulator: Expr, word: Expr, weights: Expr) -> Expr:
    """int32x16 plus 16 dot products of four u8 (`word`, its bits as int8x64) with four s8."""
    return T.call_llvm_pure_intrin("int32x16", "llvm.x86.avx512.vpdpbusd.512", accumulator, word, weights)
