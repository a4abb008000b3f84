"""One head in plain loops over 16 keys, then over 16 channels, on any CPU; keys are transposed once, without their zero point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import cast

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES
from .operand import Call, Expr, lanes

_ALL = T.Ramp(0, 1, LANES)


class Head:
    """As that of dot products: codes of a tile of queries, 0 beyond the keys."""

    def __init__(self, call: Call, head: Sequence[Expr], tile: int) -> None:
        self._call, self._head = call, head
        self._q, self._k, self._v = call.inputs[:3]
        self._keys, self._depth = self._k.outer[-1], self._k.spec.logical_channels
        self.stride = (self._keys + LANES - 1) // LANES * LANES
        self.codes = T.alloc_buffer((tile * self.stride,), "uint8")
        self._exponentials = T.alloc_buffer((tile * self.stride,), "uint8")
        self._pack_keys()

    def _pack_keys(self) -> None:
        """The keys' columns for `scores`, 16 keys side by side."""
        self._columns = T.alloc_buffer((self.stride * self._depth,), "int16")
        with T.serial(self.stride) as key, T.serial(self._depth) as depth:
            value = T.Cast("int16", self._k.load([*self._head, T.min(key, self._keys - 1)], depth)) - T.int16(self._k.spec.zero)
            T.buffer_store(self._columns, value, [(key // LANES * self._depth + depth) * LANES + key % LANES])

    @staticmethod
    def tasks(call: Call, count: Expr) -> AbstractContextManager[Expr]:
        """Every task on some thread."""
        return cast(AbstractContextManager[Expr], T.parallel(count))

    def take(self, queries: Sequence[Expr]) -> None:
        """The queries of a tile, for `scores`."""
        self._queries = queries

    def scores(self, block: Expr) -> list[Expr]:
        """q k^T of each query and 16 keys, int32."""
        sums = [T.alloc_buffer((LANES,), "int32") for _ in self._queries]
        for partial in sums:
            T.buffer_store(partial, lanes(0), [_ALL])
        with T.serial(self._depth) as depth:
            keys = T.bind(T.Cast(f"int32x{LANES}", self._columns[T.Ramp((block * self._depth + depth) * LANES, 1, LANES)]))
            for query, partial in zip(self._queries, sums, strict=True):
                value = T.Cast("int32", self._q.load([*self._head, query], depth)) - self._q.spec.zero
                T.buffer_store(partial, partial[_ALL] + T.Broadcast(value, LANES) * keys, [_ALL])
        return [partial[_ALL] for partial in sums]

    def exponentials(self, row: Expr, count: Expr, reach: Expr, seen: Callable[[Expr], Expr] | None) -> Expr:
        """Those of a query's codes, 0 from key `count` on up to `reach`; gives their sum, int32.

        Args:
            seen: for a position in `codes`, a byte: 255 where the key is seen, 0 where not.
        """
        table, first = self._call.constants[0], row * self.stride
        most, total = T.alloc_buffer((1,), "int32"), T.alloc_buffer((1,), "int32")
        T.buffer_store(most, T.int32(0), [0])
        T.buffer_store(total, T.int32(0), [0])
        with T.serial(count) as key:
            T.buffer_store(most, T.max(most[0], T.Cast("int32", self.codes[first + key])), [0])
        with T.serial(count) as key:
            found = table[most[0] - T.Cast("int32", self.codes[first + key])]
            kept = T.bind(found if seen is None else T.bitwise_and(found, seen(first + key)))
            T.buffer_store(self._exponentials, kept, [first + key])
            T.buffer_store(total, total[0] + T.Cast("int32", kept), [0])
        with T.serial(reach - count) as key:
            T.buffer_store(self._exponentials, T.uint8(0), [first + count + key])
        return T.bind(total[0])

    def weighted(self, totals: Sequence[Expr], block: Expr, reach: Expr) -> list[Expr]:
        """sum E v of each query over 16 channels, int32."""
        sums = [T.alloc_buffer((LANES,), "int32") for _ in totals]
        for partial in sums:
            T.buffer_store(partial, lanes(0), [_ALL])
        with T.serial(reach) as key:
            values = T.bind(self._v.integers([*self._head, key], block * LANES))
            for row, partial in enumerate(sums):
                weight = T.Cast("int32", self._exponentials[row * self.stride + key])
                T.buffer_store(partial, partial[_ALL] + T.Broadcast(weight, LANES) * values, [_ALL])
        return [partial[_ALL] for partial in sums]
