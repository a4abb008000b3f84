"""linear as loops over 16 output channels at a time, on any CPU; a tile of rows shares a load of weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES
from .epilogue import finish, requantization
from .linear_vnni import linear_by_tiles
from .operand import Call, Expr, Operand, over
from .vnni import Tile

_ALL = T.Ramp(0, 1, LANES)


class LaneTile(Tile):
    """A tile whose words are single values."""

    word: ClassVar[int] = 1

    @staticmethod
    def words(source: Operand) -> Any:
        return source.flat()

    def step(self, words: Any, positions: Sequence[Expr], depth: Expr) -> None:
        weight = self._call.constants[0]
        weights = [T.bind(T.Cast(f"int32x{LANES}", weight[self._first + vector, depth, _ALL])) for vector in self._vectors]
        for position, sums in zip(positions, self._sums, strict=True):
            value = T.Broadcast(T.Cast("int32", words[position]), LANES)
            for vector in self._vectors:
                T.buffer_store(sums[vector], sums[vector][_ALL] + value * weights[vector], [_ALL])


def linear_loops(call: Call) -> None:
    """By tiles where the setting ``tile`` gives their size; else a row a task, for threads that are many."""
    if "tile" in call.attributes:
        linear_by_tiles(call, LaneTile)
        return
    (source,), output = call.inputs, call.output
    weight, bias = call.constants[:2]

    def row(outer: list[Expr]) -> None:
        with T.serial(output.spec.channels // LANES) as block:
            sums = T.alloc_buffer((LANES,), "int32")
            T.buffer_store(sums, bias[T.Ramp(block * LANES, 1, LANES)], [_ALL])
            with T.serial(source.spec.logical_channels) as depth:
                x = T.Broadcast(T.Cast("int32", source.load(outer, depth)), LANES)
                w = T.Cast(f"int32x{LANES}", weight[block, depth, _ALL])
                T.buffer_store(sums, sums[_ALL] + x * w, [_ALL])
            finish(call, sums[_ALL], requantization(call, block * LANES), outer, block * LANES)

    over(output, row)
