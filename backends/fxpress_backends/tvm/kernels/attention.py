"""Attention, fused: a task is a part of a head, of whose scores no more than a tile of queries is ever in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import BYTES, LANES
from . import head_amx, head_avx2, head_loops, head_sdot, head_threads, head_vnni
from .epilogue import rounded, store
from .heads import Heads
from .matmul import unravelled
from .operand import Call, Expr, Operand, lanes
from .reciprocal import reciprocal


def attention_amx(call: Call) -> None:
    """Tiles for both products, byte permutes between them."""
    _attention(call, head_amx.Head, BYTES)


def attention_vnni(call: Call) -> None:
    """Dot products and byte permutes."""
    _attention(call, head_vnni.Head, BYTES)


def attention_avx2(call: Call) -> None:
    """Products of pairs and byte permutes."""
    _attention(call, head_avx2.Head, BYTES)


def attention_sdot(call: Call) -> None:
    """Dot products of s8 and byte permutes."""
    _attention(call, head_sdot.Head, BYTES)


def attention_usdot(call: Call) -> None:
    """The same with u8 on the left."""
    _attention(call, head_sdot.MixedHead, BYTES)


def attention_loops(call: Call) -> None:
    """Plain loops over 16 lanes."""
    _attention(call, head_loops.Head, 1)


def attention_threads(call: Call) -> None:
    """A query a thread."""
    _attention(call, head_threads.Head, 1)


def _attention(call: Call, kind: Any, wide: int) -> None:
    """Heads x parts of their queries; the last tile of queries repeats the last one.

    Args:
        kind: a head with the methods of `head_vnni.Head` or of `head_loops.Head`.
        wide: how many bytes of a mask it takes at a time.
    """
    call = _by_heads(call)
    q, parts, tile = call.inputs[0], call.attributes["parts"], call.attributes["tile"]
    *heads, queries = q.outer
    tiles = (queries + tile - 1) // tile
    count = q.lead
    for size in heads:
        count = count * size
    with kind.tasks(call, count * parts) as task:
        part = T.bind(task % parts)
        place = unravelled(task // parts, heads)
        head = kind(call, place, tile)
        scoring = _Scores(call, place, head, tile, wide)
        first, last = T.bind(part * tiles // parts), T.bind((part + 1) * tiles // parts)
        with T.serial(last - first) as step:

            def query(row: Expr, step: Expr = step) -> Expr:
                return T.min((first + step) * tile + row, queries - 1)

            rows = [T.bind(query(row)) for row in range(tile)]
            reach = T.bind(scoring.reach(query, tile))
            scoring.fill(rows, reach)
            totals = T.alloc_buffer((tile,), "int32")
            with T.serial(tile) as row:
                count = T.bind(scoring.counted(row, query(row)))
                T.buffer_store(totals, head.exponentials(row, count, reach, scoring.seen), [row])
            _finish(call, head, place, rows, totals, reach)


def _by_heads(call: Call) -> Call:
    """q, k, v and the result as tensors of heads."""
    *operands, result = (
        Heads.of(operand, *setting) if setting[0] else operand
        for operand, setting in zip((*call.inputs[:3], call.output), call.attributes["heads"], strict=True)
    )
    return replace(call, inputs=(*operands, *call.inputs[3:]), output=result)


class _Scores:
    """Accumulators ==> the codes of a tile of queries, and which keys a mask shows them."""

    def __init__(self, call: Call, place: Sequence[Expr], head: Any, tile: int, wide: int) -> None:
        self._call, self._place, self._head = call, place, head
        self._keys = call.inputs[1].outer[-1]
        names = [name for name in ("mask", "bias") if call.attributes[name]]
        self._operands: Mapping[str, Operand] = dict(zip(names, call.inputs[3:], strict=True))
        shown: Expr = T.alloc_buffer((tile * head.stride,), "uint8") if "mask" in names else None
        self.seen = None if shown is None else lambda at: shown[T.Ramp(at, 1, wide) if wide > 1 else at]
        self._shown = shown
        self._unseen = call.attributes["unseen"]
        self._alone: Expr = None if self._unseen == "zero" else T.alloc_buffer((tile,), "int32")

    def reach(self, query: Callable[[Expr], Expr], tile: int) -> Expr:
        """How many keys count for any of a tile's queries, of which the last one sees furthest; notes those that see nothing."""
        if self._alone is None:
            return self.count(query(tile - 1))
        most, some, every = T.alloc_buffer((1,), "int32"), T.alloc_buffer((LANES,), "int32"), T.Ramp(0, 1, LANES)
        T.buffer_store(most, T.int32(0), [0])
        with T.serial(tile) as row:
            here = T.bind(query(row))
            count = T.bind(self.count(here))
            T.buffer_store(some, lanes(0), [every])
            with T.serial((count + LANES - 1) // LANES) as block:
                keys = T.Ramp(block * LANES, 1, LANES)
                shown = T.Select(keys < T.Broadcast(count, LANES), self._lanes("mask", here, block), lanes(0))
                T.buffer_store(some, T.max(some[every], shown), [every])
            T.buffer_store(self._alone, T.int32(1), [row])
            with T.serial(LANES) as lane:
                T.buffer_store(self._alone, T.min(self._alone[row], T.Select(some[lane] > 0, T.int32(0), T.int32(1))), [row])
            T.buffer_store(most, T.max(most[0], T.Cast("int32", self.counted(row, here))), [0])
        return most[0]

    def counted(self, row: Expr, query: Expr) -> Expr:
        """As `count`; all keys where the tile's query number `row` sees none and averages them."""
        if self._unseen != "mean":
            return self.count(query)
        return T.max(self.count(query), self._alone[row] * self._keys)

    def count(self, query: Expr) -> Expr:
        """How many keys stand before the first that is too late for a query."""
        return T.min(query + 1, self._keys) if self._call.attributes["causal"] else self._keys

    def fill(self, rows: Sequence[Expr], reach: Expr) -> None:
        """16 keys at a time; beyond `reach` the codes are 0, as where a key is not seen."""
        self._head.take(rows)
        with T.serial((reach + LANES - 1) // LANES) as block:
            keys = T.Ramp(block * LANES, 1, LANES)
            for row, (query, acc) in enumerate(zip(rows, self._head.scores(block), strict=True)):
                code = _rescaled(self._biased(acc, query, block), self._call.attributes["scores"]) + lanes(128)
                code = T.Select(keys < T.Broadcast(self.count(query), LANES), code, lanes(0))
                at = T.Ramp(row * self._head.stride + block * LANES, 1, LANES)
                if self._shown is not None:
                    given = T.bind(self._lanes("mask", query, block))
                    counted = given if self._alone is None else T.bind(T.max(given, T.Broadcast(self._alone[row], LANES)))
                    code = T.Select((counted if self._unseen == "unmasked" else given) > lanes(0), code, lanes(0))
                    shown = counted > lanes(0)
                    T.buffer_store(self._shown, T.Cast(f"uint8x{LANES}", T.Select(shown, lanes(255), lanes(0))), [at])
                T.buffer_store(self._head.codes, T.Cast(f"uint8x{LANES}", code), [at])

    def _biased(self, acc: Expr, query: Expr, block: Expr) -> Expr:
        return acc + self._lanes("bias", query, block) if "bias" in self._operands else acc

    def _lanes(self, name: str, query: Expr, block: Expr) -> Expr:
        """16 integers of a mask or a bias; a dimension of size 1 is read again and again, one that is missing is not read."""
        operand = self._operands[name]
        sizes = [operand.spec.lead, *operand.spec.shape]
        indices = [*self._place, query][len(self._place) + 2 - len(sizes) :]
        outer = [0 if size == 1 else index for size, index in zip(sizes[:-1], indices, strict=True)]
        if sizes[-1] == 1:
            return T.Broadcast(T.Cast("int32", operand.load(outer, 0)), LANES)
        return operand.integers(outer, block * LANES)


def _rescaled(x: Expr, settings: Mapping[str, Any]) -> Expr:
    """clamp(rne(x * b / 2**c)), clamped before to ``bounds`` where the product would leave 32 bits."""
    if "bounds" in settings:
        low, high = settings["bounds"]
        x = T.min(T.max(x, lanes(low)), lanes(high))
    return rounded(x * lanes(settings["b"]), settings)


def _finish(call: Call, head: Any, place: Sequence[Expr], rows: Sequence[Expr], totals: Expr, reach: Expr) -> None:
    """Weighted sums, divided by the sums of exponentials and rescaled, 16 channels of every query of the tile at a time."""
    factors, excesses = (T.alloc_buffer((len(rows),), "int32") for _ in range(2))
    with T.serial(len(rows)) as row:
        factor, n = reciprocal(call.constants[1], totals[row])
        T.buffer_store(factors, factor, [row])
        T.buffer_store(excesses, T.max(n - call.attributes["kept"], T.int32(0)), [row])
    with T.serial(call.output.blocks) as block:
        sums = head.weighted([totals[row] for row in range(len(rows))], block, reach)
        for row, (query, weighted) in enumerate(zip(rows, sums, strict=True)):
            factor, excess = (T.Broadcast(values[row], LANES) for values in (factors, excesses))
            half = T.shift_right(T.shift_left(lanes(1), excess), lanes(1))
            mean = T.shift_right(T.shift_right(weighted + half, excess) * factor + lanes(1 << 14), lanes(15))
            store(call, _rescaled(mean, call.attributes["result"]), [*place, query], block * LANES)
