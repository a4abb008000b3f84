"""One head in dot products of bytes: keys packed 16 by word of 4 channels, values 16 channels by word of 4 keys, both turned to s8 once.

A tile of queries shares each packed vector: a step is one load of it, and one broadcast word and one dot product a query.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, cast

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import BYTES, LANES, WORD
from .byte_dot import Vnni
from .lookup import LOOKUPS
from .operand import Call, Expr, lanes
from .quads import SIGNS, Quads, right_zero

_ALL = T.Ramp(0, 1, LANES)


class Head:
    """The keys and values of one head, and a tile of its queries' codes and exponentials.

    Attributes:
        codes: u8 of shape [tile * stride], scores with 128 added, 0 beyond the keys.
        stride: elements of one query in them.
    """

    dots: ClassVar[type[Vnni]] = Vnni
    _fours = 1
    """Packed fours of values are a multiple of it."""

    def __init__(self, call: Call, head: Sequence[Expr], tile: int) -> None:
        self._call, self._head = call, head
        self._q, self._k, self._v = call.inputs[:3]
        self._keys, self._depth = self._k.outer[-1], self._k.spec.logical_channels
        self._words = self._words_of(-(-self._depth // WORD))
        self.stride = (self._keys + BYTES - 1) // BYTES * BYTES
        self.codes = T.alloc_buffer((tile * self.stride,), "uint8")
        self._allocate(tile)
        with T.serial(tile * self.stride // BYTES) as step:
            T.buffer_store(self.codes, T.Broadcast(T.uint8(0), BYTES), [T.Ramp(step * BYTES, 1, BYTES)])
        self._pack_keys()
        self._pack_values()

    def _allocate(self, tile: int) -> None:
        self._exponentials = T.alloc_buffer((tile * self.stride // WORD,), "int32")

    def _pack_values(self) -> None:
        self._values = Quads(self._v, self._head, self._keys, self._fours)

    @staticmethod
    def tasks(call: Call, count: Expr) -> AbstractContextManager[Expr]:
        """Every task on some thread."""
        return cast(AbstractContextManager[Expr], T.parallel(count))

    def _words_of(self, least: int) -> int:
        """How many words of a key are packed."""
        return least

    def _pack_keys(self) -> None:
        """[keys / 16, words, 16]; the last keys are repeated, channels beyond the last one are 0. Starts take off q's zero point."""
        blocks = (self._keys + LANES - 1) // LANES
        self._packed_keys = T.alloc_buffer((blocks * self._words * LANES,), "int32")
        self._starts = T.alloc_buffer((blocks * LANES,), "int32")
        source = self._k.words()
        with T.serial(blocks) as block:
            with T.serial(LANES) as lane, T.serial(self._words) as word:
                key = T.min(block * LANES + lane, self._keys - 1)
                stored = T.min(word, (self._depth - 1) // WORD)
                value = source[T.floordiv(self._k.offset([*self._head, key]), WORD) + stored]
                value = T.bitwise_xor(value, T.int32(SIGNS)) if self._k.spec.dtype == "uint8" else value
                T.buffer_store(self._packed_keys, self._within(value, word), [(block * self._words + word) * LANES + lane])
            total = T.alloc_buffer((LANES,), "int32")
            T.buffer_store(total, lanes(0), [_ALL])
            with T.serial(self._words) as word:
                T.buffer_store(total, self.dots.dot(total[_ALL], self.dots.ones(), self._keys_at(block, word), "int8"), [_ALL])
            zero = self.dots.zero(self._q.spec.zero, self._q.spec.dtype)
            T.buffer_store(self._starts, total[_ALL] * lanes(-zero), [T.Ramp(block * LANES, 1, LANES)])

    def _within(self, value: Expr, word: Expr) -> Expr:
        whole, rest = divmod(self._depth, WORD)
        if whole == self._words:
            return value
        kept = T.if_then_else(word == whole, T.int32((1 << (8 * rest)) - 1), T.if_then_else(word < whole, T.int32(-1), T.int32(0)))
        return T.bitwise_and(value, kept)

    def _keys_at(self, block: Expr, word: Expr) -> Expr:
        return T.reinterpret(f"int8x{BYTES}", self._packed_keys[T.Ramp((block * self._words + word) * LANES, 1, LANES)])

    def take(self, queries: Sequence[Expr]) -> None:
        """The queries of a tile, for `scores`."""
        self._queries = [T.bind(T.floordiv(self._q.offset([*self._head, query]), WORD)) for query in queries]

    def scores(self, block: Expr) -> list[Expr]:
        """q k^T of each query and 16 keys, int32."""
        words, kind, sums = self._q.words(), self._q.spec.dtype, [T.alloc_buffer((LANES,), "int32") for _ in self._queries]
        for partial in sums:
            T.buffer_store(partial, self._starts[T.Ramp(block * LANES, 1, LANES)], [_ALL])
        with T.serial(self._words) as word:
            keys = T.bind(self._keys_at(block, word))
            for start, partial in zip(self._queries, sums, strict=True):
                T.buffer_store(partial, self.dots.dot(partial[_ALL], self.dots.word(words, start + word, kind), keys, kind), [_ALL])
        return [partial[_ALL] for partial in sums]

    def exponentials(self, row: Expr, count: Expr, reach: Expr, seen: Callable[[Expr], Expr] | None) -> Expr:
        """Those of a query's codes, 0 from key `count` on up to `reach`; gives their sum, int32.

        Args:
            seen: for a position in `codes`, 64 bytes: 255 where a key is seen, 0 where not.
        """
        table, first = self._call.constants[0], row * self.stride
        steps = T.bind((reach + BYTES - 1) // BYTES)
        most = T.alloc_buffer((BYTES,), "uint8")
        T.buffer_store(most, T.Broadcast(T.uint8(0), BYTES), [T.Ramp(0, 1, BYTES)])
        with T.serial(steps) as step:
            codes = self.codes[T.Ramp(first + step * BYTES, 1, BYTES)]
            T.buffer_store(most, T.max(most[T.Ramp(0, 1, BYTES)], codes), [T.Ramp(0, 1, BYTES)])
        largest = T.bind(T.call_llvm_pure_intrin("uint8", "llvm.vector.reduce.umax", most[T.Ramp(0, 1, BYTES)]))
        total = T.alloc_buffer((LANES,), "int32")
        T.buffer_store(total, lanes(0), [_ALL])
        find = LOOKUPS[self._call.attributes["lookup"]](lambda run: table[run])
        with T.serial(steps) as step:
            at = T.bind(first + step * BYTES)
            distance = T.bind(T.reinterpret(f"int8x{BYTES}", T.Broadcast(largest, BYTES) - self.codes[T.Ramp(at, 1, BYTES)]))
            inside = T.Ramp(step * BYTES, 1, BYTES) < T.Broadcast(count, BYTES)
            kept = T.bind(T.Select(inside, find(distance), T.Broadcast(T.int8(0), BYTES)))
            if seen is not None:
                kept = T.bind(T.bitwise_and(kept, T.reinterpret(f"int8x{BYTES}", seen(at))))
            self._keep(kept, at)
            T.buffer_store(total, self._added_up(total[_ALL], kept), [_ALL])
        return T.bind(T.call_llvm_pure_intrin("int32", "llvm.vector.reduce.add", total[_ALL]))

    def _keep(self, kept: Expr, at: Expr) -> None:
        """64 exponentials, u8 whose bits are int8x64, for `weighted`."""
        T.buffer_store(self._exponentials, T.reinterpret(f"int32x{LANES}", kept), [T.Ramp(at // WORD, 1, LANES)])

    def _added_up(self, total: Expr, kept: Expr) -> Expr:
        """int32x16, whose sum grows by 64 exponentials."""
        return self.dots.added_up(total, kept)

    def weighted(self, totals: Sequence[Expr], block: Expr, reach: Expr) -> list[Expr]:
        """sum E v of each query over 16 channels, int32; `totals` take off v's zero point."""
        missing = -right_zero(self._v.spec.zero, self._v.spec.dtype)
        sums = [T.alloc_buffer((LANES,), "int32") for _ in totals]
        for partial, total in zip(sums, totals, strict=True):
            T.buffer_store(partial, T.Broadcast(total * missing, LANES) if missing else lanes(0), [_ALL])
        return self._add_products(sums, block, (reach + WORD - 1) // WORD)

    def _add_products(self, sums: Sequence[Expr], block: Expr, quads: Expr) -> list[Expr]:
        with T.serial(quads) as quad:
            values = T.bind(self._values.at(block, quad))
            for row, partial in enumerate(sums):
                word = self.dots.word(self._exponentials, row * (self.stride // WORD) + quad, "uint8")
                T.buffer_store(partial, self.dots.dot(partial[_ALL], word, values, "uint8"), [_ALL])
        return [partial[_ALL] for partial in sums]
