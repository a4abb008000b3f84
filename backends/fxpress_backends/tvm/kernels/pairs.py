"""acc[16] += x[2] . w[16][2]: tiles of AVX512-VNNI dot products, s16 words of 2 channels against s16 weights."""

from __future__ import annotations

from typing import ClassVar

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES, PAIR
from .operand import Expr
from .vnni import Tile


class PairTile(Tile):
    """A tile over 16-bit values, which takes twice as many steps."""

    word: ClassVar[int] = PAIR
    element: ClassVar[str] = "int16"

    @staticmethod
    def dot(accumulator: Expr, word: Expr, weights: Expr) -> Expr:
        """int32x16 plus 16 dot products of two s16 (`word`, its bits as int16x32) with two s16; it wraps, as sums do elsewhere."""
        return T.call_llvm_pure_intrin(f"int32x{LANES}", "llvm.x86.avx512.vpdpwssd.512", accumulator, word, weights)
