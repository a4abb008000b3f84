"""shape operators ==> steps of a copy, as data: how the dimensions of the result lead back to those before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from fxpress_ir.ops import arguments
from torch import fx

from .nodes import permutation_of
from .physical import Buffer
from .sizes import Extent, extent_of, plus

_aten = torch.ops.aten

Step = list[Any]
"""``["order", dimensions]``: the result's dimensions by their numbers before; ``["shape", sizes before, sizes after]``: the same
elements in the same order; ``["line", starts, strides]``: index i of a dimension was start + stride * i."""


def steps_of(node: fx.Node, names: Mapping[str, str]) -> list[Step]:
    """What a shape operator does; the sizes are extents."""
    named, order = arguments(node), permutation_of(node)
    before, after = extents_of(named["self"], names), extents_of(node, names)
    if order is not None:
        return [["order", list(order)]]
    if node.target is _aten.slice.Tensor:
        return [_line(len(before), named["dim"], first_of(node, names), named["step"])]
    if node.target is _aten.select.int:
        chosen = [size if dimension != named["dim"] % len(before) else 1 for dimension, size in enumerate(before)]
        return [_line(len(before), named["dim"], first_of(node, names), 1), ["shape", chosen, after]]
    if node.target is not _aten.expand.default:
        return [["shape", before, after]]
    spread = [1] * (len(after) - len(before)) + before
    grown: list[Step] = [] if len(spread) == len(before) else [["shape", before, spread]]
    return [*grown, ["line", [0] * len(after), [int(old == new) for old, new in zip(spread, after, strict=True)]]]


def first_of(node: fx.Node, names: Mapping[str, str]) -> Extent | None:
    """The index that a slice starts from, or that a select takes; a negative number counts from the back. None where it is no extent."""
    named = arguments(node)
    size = extent_of(named["self"].meta["val"].shape[named["dim"]], names)
    given = named["index"] if node.target is _aten.select.int else named["start"]
    start = extent_of(given.meta["val"] if isinstance(given, fx.Node) else given or 0, names)
    if start is None or size is None:
        return None
    if isinstance(start, int) and isinstance(size, int):
        return slice(start, None).indices(size)[0]
    return plus(size, start) if isinstance(start, int) and start < 0 else start


def extents_of(node: fx.Node, names: Mapping[str, str]) -> list[Extent]:
    """The shape of a node whose sizes are extents, as `legalize` sees to."""
    found = [extent_of(size, names) for size in node.meta["val"].shape]
    extents = [extent for extent in found if extent is not None]
    assert len(extents) == len(found), "legalize refuses other sizes"
    return extents


def _line(rank: int, dim: int, start: Extent | None, stride: int) -> Step:
    starts: list[Extent | None] = [0] * rank
    strides = [1] * rank
    starts[dim], strides[dim] = start, stride
    return ["line", starts, strides]


def in_place(steps: Sequence[Step], source: Buffer, result: Buffer) -> bool:
    """The steps leave every element where it lies."""
    kinds = {kind for kind, *_ in steps}
    if source.sizes != result.sizes:
        return False
    if kinds <= {"shape"}:
        return source.row_major and result.row_major
    if kinds != {"order"}:
        return False
    order: Sequence[int] = range(len(source.order))
    for _, dimensions in steps:
        order = [order[dimension] for dimension in dimensions]
    return tuple(order[dimension] for dimension in result.order) == source.order
