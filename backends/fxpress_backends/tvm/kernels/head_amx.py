"""One head in AMX tiles: 16 queries x 16 keys of scores, 16 queries x 16 channels of weighted sums; the rest is that of dot products."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import BYTES, LANES, WORD
from ..tiles import ROWS
from . import head_vnni
from .amx import SUMS, configure, operate, shares
from .operand import Call, Expr
from .quads import right_zero

_SCORES, _MEANS = 0, 1
"""Tiles of sums; each has a tile of bytes and one of s8, four and six after it."""
_LEFT, _RIGHT = 4, 6


class Head(head_vnni.Head):
    """The queries of a tile are copied side by side, so that heads may lie anywhere and the last query may be repeated."""

    _fours = LANES

    def __init__(self, call: Call, head: Sequence[Expr], tile: int) -> None:
        assert tile == ROWS, "a tile of queries is a tile's rows"
        super().__init__(call, head, tile)
        self._emulated = call.attributes.get("emulated", False)
        self._taken = T.alloc_buffer((ROWS * self._words,), "int32")
        self._sums = T.alloc_buffer((SUMS,), "int32")

    @staticmethod
    @contextmanager
    def tasks(call: Call, count: Expr) -> Iterator[Expr]:
        """On threads with tiles for both products."""
        emulated, (words, _) = call.attributes.get("emulated", False), _cut(call.inputs[1].spec.logical_channels)
        tiles: dict[int, tuple[Expr, int]] = {}
        for number, depth in ((_SCORES, words), (_MEANS, LANES)):
            tiles |= {number: (ROWS, BYTES), _LEFT + number: (ROWS, depth * WORD), _RIGHT + number: (depth, BYTES)}
        with shares(emulated, count, lambda: configure(emulated, tiles)) as (_, task):
            yield task

    def _words_of(self, least: int) -> int:
        words, tiles = _cut(self._depth)
        return words * tiles

    def take(self, queries: Sequence[Expr]) -> None:
        """Bytes beyond the last channel meet zeros of the keys."""
        words, count = self._q.words(), -(-self._depth // WORD)
        for row, query in enumerate(queries):
            start = T.bind(T.floordiv(self._q.offset([*self._head, query]), WORD))
            with T.serial(self._words) as word:
                T.buffer_store(self._taken, words[start + T.min(word, count - 1)], [row * self._words + word])

    def scores(self, block: Expr) -> list[Expr]:
        self._load(_SCORES, T.address_of(self._starts[block * LANES]), 0)
        words, tiles = _cut(self._depth)
        for number in range(tiles):
            keys = self._packed_keys[(block * self._words + number * words) * LANES]
            self._multiply(_SCORES, self._taken[number * words], self._words * WORD, keys)
        return self._stored(_SCORES)

    def weighted(self, totals: Sequence[Expr], block: Expr, reach: Expr) -> list[Expr]:
        missing, values = -right_zero(self._v.spec.zero, self._v.spec.dtype), self._values
        operate(self._emulated, "clear", T.uint8(_MEANS))
        with T.serial((reach + BYTES - 1) // BYTES) as step:
            fours = values.packed[(block * values.count + step * LANES) * LANES]
            self._multiply(_MEANS, self._exponentials[step * LANES], self.stride, fours)
        sums = self._stored(_MEANS)
        return [partial + T.Broadcast(total * missing, LANES) for partial, total in zip(sums, totals, strict=True)] if missing else sums

    def _load(self, tile: int, address: Expr, pitch: Expr) -> None:
        operate(self._emulated, "load", T.uint8(tile), address, T.Cast("int64", pitch))

    def _multiply(self, sums: int, left: Expr, pitch: Expr, right: Expr) -> None:
        """What lies from these elements on; `pitch`: bytes from row to row of the left."""
        self._load(_LEFT + sums, T.address_of(left), pitch)
        self._load(_RIGHT + sums, T.address_of(right), BYTES)
        operate(self._emulated, "multiply", T.uint8(sums), T.uint8(_LEFT + sums), T.uint8(_RIGHT + sums))

    def _stored(self, tile: int) -> list[Expr]:
        operate(self._emulated, "store", T.uint8(tile), T.address_of(self._sums[0]), T.int64(BYTES))
        return [self._sums[T.Ramp(row * LANES, 1, LANES)] for row in range(ROWS)]


def _cut(depth: int) -> tuple[int, int]:
    """Words of a tile, and how many tiles, that take a row of that many channels most evenly."""
    words = -(-depth // WORD)
    tiles = -(-words // LANES)
    return -(-words // tiles), tiles
