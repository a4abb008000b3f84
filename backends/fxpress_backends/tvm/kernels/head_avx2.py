"""One head in AVX2's products of s16 pairs: keys packed 16 by pair of channels, values 16 channels by pair of keys, without zero points.

Queries are widened once a tile, exponentials where they are found, so that a step is a load, and products alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import BYTES, LANES, PAIR
from . import head_vnni
from .avx2 import SUMS
from .operand import Call, Expr, lanes
from .shorts import ChannelPairs, RowPairs, accumulate

_ALL = T.Ramp(0, 1, LANES)
_SHORTS = LANES * PAIR


class Head(head_vnni.Head):
    """Codes and exponentials as with dot products of bytes; the latter take 16 bits."""

    def __init__(self, call: Call, head: Sequence[Expr], tile: int) -> None:
        super().__init__(call, head, tile)
        self._pairs = ChannelPairs(self._q, tile)

    def _allocate(self, tile: int) -> None:
        self._exponentials = T.alloc_buffer((tile * self.stride // PAIR,), "int32")

    def _words_of(self, least: int) -> int:
        return self._k.spec.channels // PAIR

    def _pack_values(self) -> None:
        self._value_pairs = RowPairs(self._v, self._head, self._keys)

    def _pack_keys(self) -> None:
        """[keys / 16, pairs, 16]; the last keys are repeated, channels beyond the last one are 0."""
        blocks = (self._keys + LANES - 1) // LANES
        self._packed_keys = T.alloc_buffer((blocks * self._words * LANES,), "int32")
        channels = T.Ramp(0, 1, LANES)
        with T.serial(blocks) as block, T.serial(LANES) as lane, T.serial(self._k.spec.channels // LANES) as sixteen:
            place = [*self._head, T.min(block * LANES + lane, self._keys - 1)]
            value = T.Cast(f"int16x{LANES}", self._k.load_lanes(place, sixteen * LANES)) - T.Broadcast(T.int16(self._k.spec.zero), LANES)
            if self._depth % LANES:
                inside = channels < T.Broadcast(T.Cast("int32", self._depth - sixteen * LANES), LANES)
                value = T.Select(inside, value, T.Broadcast(T.int16(0), LANES))
            words = T.bind(T.reinterpret(f"int32x{SUMS}", value))
            for number in range(SUMS):
                at = (block * self._words + sixteen * SUMS + number) * LANES + lane
                T.buffer_store(self._packed_keys, T.Shuffle([words], [T.int32(number)]), [at])

    def take(self, queries: Sequence[Expr]) -> None:
        self._pairs.take([[*self._head, query] for query in queries])
        self._queries = list(queries)

    def scores(self, block: Expr) -> list[Expr]:
        sums = [T.alloc_buffer((LANES,), "int32") for _ in self._queries]
        for partial in sums:
            T.buffer_store(partial, lanes(0), [_ALL])
        with T.serial(-(-self._depth // PAIR)) as word:
            start = (block * self._words + word) * LANES
            keys = [self._packed_keys[T.Ramp(start + half * SUMS, 1, SUMS)] for half in range(LANES // SUMS)]
            right = [T.bind(T.reinterpret(f"int16x{LANES}", some)) for some in keys]
            for row, partial in enumerate(sums):
                accumulate(partial, self._pairs.pairs, row * self._pairs.count + word, right)
        return [partial[_ALL] for partial in sums]

    def _keep(self, kept: Expr, at: Expr) -> None:
        for half in range(BYTES // _SHORTS):
            some = T.Shuffle([kept], [T.int32(half * _SHORTS + lane) for lane in range(_SHORTS)])
            wide = T.Cast(f"int16x{_SHORTS}", T.reinterpret(f"uint8x{_SHORTS}", some))
            T.buffer_store(self._exponentials, T.reinterpret(f"int32x{LANES}", wide), [T.Ramp(at // PAIR + half * LANES, 1, LANES)])

    def _added_up(self, total: Expr, kept: Expr) -> Expr:
        """``vpsadbw`` adds up eight bytes at a time."""
        halves = [T.Shuffle([kept], [T.int32(half * _SHORTS + lane) for lane in range(_SHORTS)]) for half in range(BYTES // _SHORTS)]
        none = T.Broadcast(T.int8(0), _SHORTS)
        sums = [T.call_llvm_pure_intrin("int64x4", "llvm.x86.avx2.psad.bw", half, none) for half in halves]
        return total + T.Shuffle([T.reinterpret(f"int32x{SUMS}", some) for some in sums], [T.int32(lane) for lane in range(LANES)])

    def weighted(self, totals: Sequence[Expr], block: Expr, reach: Expr) -> list[Expr]:
        sums = [T.alloc_buffer((LANES,), "int32") for _ in totals]
        for partial in sums:
            T.buffer_store(partial, lanes(0), [_ALL])
        with T.serial((reach + PAIR - 1) // PAIR) as pair:
            values = self._value_pairs.at(block, pair)
            for row, partial in enumerate(sums):
                accumulate(partial, self._exponentials, row * (self.stride // PAIR) + pair, values)
        return [partial[_ALL] for partial in sums]
