"""The setting ``prefetch`` ==> prefetches beside the products of a step: weights of later steps, inputs of the next tile.

It is ``[steps, tiles]``: how many steps ahead weights are asked for, and whether (1) the next tile's inputs are; 0 asks for none.
The caches alone notice: what is asked for always lies inside of its buffer, and no value depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm.script.ir_builder import tirx as T  # noqa: N812

from ..pack import line_starts
from .operand import Call, Expr

_READ, _KEPT, _DATA = 0, 3, 1
"""LLVM's flags: for reading, into every level of cache, data."""


def distances(call: Call) -> tuple[int, int]:
    """Steps ahead of the weights, tiles ahead of the inputs."""
    steps, tiles = call.attributes.get("prefetch", (0, 0))
    return int(steps), int(tiles)


def weights(call: Call, first_vector: Expr, vectors: int, depth: Expr) -> None:
    """The lines of each vector's weights that the step `distances` after `depth` reads; those of the last step beyond it."""
    ahead, _ = distances(call)
    weight = call.constants[0]
    if not ahead:
        return
    later = T.bind(T.min(depth + ahead, weight.shape[1] - 1))
    for vector in range(vectors):
        for start in line_starts(int(weight.shape[2]), weight.dtype):
            touch(weight[first_vector + vector, later, start])


def inputs(call: Call, elements: Any, positions: Sequence[Expr], word: Expr, words_of_line: int) -> None:
    """The elements at `positions` of the next tile, in the first of each line's words."""
    if not distances(call)[1] or not positions:
        return
    with T.If(word % words_of_line == 0), T.Then():
        for position in positions:
            touch(elements[position])


def touch(element: Expr) -> None:
    """Ask for the line of one element."""
    flags = map(T.int32, (_READ, _KEPT, _DATA))
    T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", T.address_of(element), *flags))
