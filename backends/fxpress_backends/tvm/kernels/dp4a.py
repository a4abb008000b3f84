"""acc[16] += x[4] . w[16][4]: tiles of CUDA's ``__dp4a``, one lane a thread, s8 words of 4 channels (u8 less 128) against s8 weights."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import LANES, WORD
from .conv2d_vnni import convolve
from .linear_vnni import indices
from .operand import Call, Expr
from .threads import DP4A
from .vnni import Tile

_ALL = T.Ramp(0, 1, LANES)
_SIGN_BITS = 0x80808080 - (1 << 32)
"""Turned over, u8 is s8 less 128."""


class WordTile(Tile):
    """A tile whose weights are words, [oc / 16, words, 16]."""

    def step(self, words: Any, positions: Sequence[Expr], depth: Expr) -> None:
        weight = self._call.constants[0]
        weights = [T.bind(weight[self._first + vector, depth, _ALL]) for vector in self._vectors]
        for position, sums in zip(positions, self._sums, strict=True):
            value = words[position] ^ T.int32(_SIGN_BITS) if self._call.inputs[0].spec.dtype == "uint8" else words[position]
            word = T.bind(T.Broadcast(value, LANES))
            for vector in self._vectors:
                T.buffer_store(sums[vector], T.call_pure_extern(f"int32x{LANES}", DP4A, word, weights[vector], sums[vector][_ALL]), [_ALL])


def conv2d_dp4a(call: Call) -> None:
    convolve(call, WordTile)


def linear_dp4a(call: Call) -> None:
    """Tasks are tiles of rows x channels; the last tile of rows repeats the last row."""
    (source,), output = call.inputs, call.output
    height, vectors = call.attributes["tile"]
    words, depth = source.words(), source.spec.channels // WORD
    count = output.lead * prod(output.outer)
    with T.parallel((count + (height - 1)) // height) as step, T.serial(output.spec.channels // LANES // vectors) as block:
        rows = [T.bind(T.min(step * height + row, count - 1)) for row in range(height)]
        tile = WordTile(call, height, vectors, block * vectors)
        with T.serial(depth) as word:
            tile.step(words, [row * depth + word for row in rows], word)
        tile.finish([indices(row, output.outer) for row in rows])
