"""One head for a thread that has one query: keys are read where they lie, nothing is packed for others."""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES
from . import head_loops
from .operand import Expr, lanes

_ALL = T.Ramp(0, 1, LANES)


class Head(head_loops.Head):
    """As that of plain loops."""

    def _pack_keys(self) -> None:
        pass

    def scores(self, block: Expr) -> list[Expr]:
        sums = [T.alloc_buffer((LANES,), "int32") for _ in self._queries]
        for query, partial in zip(self._queries, sums, strict=True):
            T.buffer_store(partial, lanes(0), [_ALL])
            with T.serial(LANES) as lane:
                key = T.bind(T.min(block * LANES + lane, self._keys - 1))
                with T.serial(self._depth) as depth:
                    x, y = (
                        T.Cast("int32", operand.load([*self._head, row], depth)) - operand.spec.zero
                        for operand, row in ((self._q, query), (self._k, key))
                    )
                    T.buffer_store(partial, partial[lane] + x * y, [lane])
        return [partial[_ALL] for partial in sums]
