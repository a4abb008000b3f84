"""One head in Arm's dot products: as in those of AVX512-VNNI; where the left has to have a sign, exponentials are kept less 128."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import BYTES, LANES, WORD
from . import head_vnni
from .byte_dot import Sdot, Usdot, Vnni
from .operand import Expr, lanes

_ALL = T.Ramp(0, 1, LANES)
_HALF = 128


class Head(head_vnni.Head):
    """``sdot``: sum E v is sum (E - 128) v + 128 sum v; beyond the last key v is 0, beyond `reach` E is."""

    dots: ClassVar[type[Vnni]] = Sdot

    def _keep(self, kept: Expr, at: Expr) -> None:
        super()._keep(T.bitwise_xor(kept, T.Broadcast(T.int8(-_HALF), BYTES)), at)

    def _add_products(self, sums: Sequence[Expr], block: Expr, quads: Expr) -> list[Expr]:
        words, pitch = self._exponentials, self.stride // WORD
        counted = T.alloc_buffer((LANES,), "int32")
        T.buffer_store(counted, lanes(0), [_ALL])
        with T.serial(quads) as quad:
            values = T.bind(self._values.at(block, quad))
            T.buffer_store(counted, self.dots.dot(counted[_ALL], self.dots.ones(), values, "int8"), [_ALL])
            for row, partial in enumerate(sums):
                word = self.dots.word(words, row * pitch + quad, "int8")
                T.buffer_store(partial, self.dots.dot(partial[_ALL], word, values, "int8"), [_ALL])
        return [partial[_ALL] + counted[_ALL] * lanes(_HALF) for partial in sums]


class MixedHead(head_vnni.Head):
    """``usdot`` takes exponentials as they are."""

    dots: ClassVar[type[Vnni]] = Usdot
