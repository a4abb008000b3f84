"""Rows of 16 channels ==> s8 words of 4 rows: what a dot product sums over when the rows are those of a matrix product."""

from __future__ import annotations

from collections.abc import Sequence

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import BYTES, LANES, WORD
from .operand import Expr, Operand, lanes

_INTERLEAVED = [T.int32(byte * LANES + lane) for lane in range(LANES) for byte in range(WORD)]
SIGNS = -(1 << 31) | 0x808080
"""128 in each byte of a word: what turns u8 with 128 added to s8, and u8 to s8 less 128."""


def right_zero(zero: int, dtype: str) -> int:
    """What `Quads` hold for the integer 0, which its storage holds as `zero`."""
    return zero - 128 if dtype == "uint8" else zero


class Quads:
    """One matrix of an operand, packed [channels / 16, rows / 4, 16 words]; rows beyond the last one are 0.

    Attributes:
        packed: those words; rows are filled up to a `multiple` of fours.
    """

    def __init__(self, operand: Operand, place: Sequence[Expr], rows: Expr, multiple: int = 1) -> None:
        self.count = (rows + WORD * multiple - 1) // (WORD * multiple) * multiple
        blocks = operand.blocks
        self.packed = T.alloc_buffer((blocks * self.count * LANES,), "int32")
        with T.serial(blocks) as block, T.serial(self.count) as quad:
            taken = [self._row(operand, place, quad * WORD + byte, rows, block) for byte in range(WORD)]
            words = T.reinterpret(f"int32x{LANES}", T.Shuffle(taken, _INTERLEAVED))
            signed = T.bitwise_xor(words, lanes(SIGNS)) if operand.spec.dtype == "uint8" else words
            T.buffer_store(self.packed, signed, [T.Ramp((block * self.count + quad) * LANES, 1, LANES)])

    def _row(self, operand: Operand, place: Sequence[Expr], row: Expr, rows: Expr, block: Expr) -> Expr:
        value = operand.load_lanes([*place, T.min(row, rows - 1)], block * LANES)
        if isinstance(rows, int) and rows == WORD * self.count:
            return value
        nothing = T.uint8(128) if operand.spec.dtype == "uint8" else T.int8(0)
        return T.Select(T.Broadcast(row < rows, LANES), value, T.Broadcast(nothing, LANES))

    def at(self, block: Expr, quad: Expr) -> Expr:
        """The words of 16 channels and 4 rows as 64 s8."""
        return T.reinterpret(f"int8x{BYTES}", self.packed[T.Ramp((block * self.count + quad) * LANES, 1, LANES)])


def word_at(words: Expr, position: Expr) -> Expr:
    """One word for all 16 lanes."""
    return T.reinterpret(f"int8x{BYTES}", T.Broadcast(words[position], LANES))
