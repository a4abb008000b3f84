"""Movement as data: an element of the result is an element of one part, found by a table a dimension, or the part's fill.

Slices, selections, paddings, inserted zeros, expansions and concatenated or shuffled channels are all of this form, and so
is whatever follows from them one after the other: values that only move are copied once, where a kernel reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from fxpress_ir.ops import arguments
from numpy.typing import NDArray
from torch import fx

from .nodes import PICKING, permutation_of, sizes_of
from .physical import Buffer

Table = NDArray[np.int32]
HOLE = -1
"""In a table: no element, the fill stands here."""


@dataclass(frozen=True, eq=False)
class Part:
    """What is taken of one buffer.

    Attributes:
        source: the buffer.
        tables: for each of ``[lead, *outer]`` the index into the source by the result's index; None where they are equal.
        fill: the integer that stands at holes; None where there are none.
    """

    source: Buffer
    tables: tuple[Table | None, ...]
    fill: int | None = None


@dataclass(frozen=True, eq=False)
class Gather:
    """A moved value: `channels` of shape [channels, 2] names the part and its channel; `nodes` are the operators that moved it."""

    parts: tuple[Part, ...]
    channels: NDArray[np.int64]
    nodes: tuple[fx.Node, ...] = ()

    def description(self) -> tuple[dict[str, Any], Mapping[str, Table]]:
        """The attributes and constants of the kernel: runs of channels as (part, first, count), tables by number."""
        constants: dict[str, Table] = {}

        def number(table: Table | None) -> int | None:
            if table is None:
                return None
            constants[f"table{len(constants)}"] = table
            return len(constants) - 1

        tables = [[number(table) for table in part.tables] for part in self.parts]
        starts = np.flatnonzero((np.diff(self.channels, axis=0, prepend=-2) != [0, 1]).any(1))
        counts = np.diff(starts, append=len(self.channels))
        runs = [[*map(int, self.channels[start]), int(count)] for start, count in zip(starts, counts, strict=True)]
        return {"runs": runs, "tables": tables, "fill": [part.fill for part in self.parts]}, constants


def whole(buffer: Buffer) -> Gather:
    """All of a buffer, in place."""
    channels = np.arange(buffer.logical_channels)
    return Gather((Part(buffer, (None,) * (1 + len(buffer.outer))),), np.stack([np.zeros_like(channels), channels], 1))


def run_of(moved: Gather, stored: Buffer) -> int | None:
    """The first channel of a value that is successive channels at every place of one buffer; None where it is something else.

    Args:
        stored: as the value would lie: a part of the places alone has fewer than its source.
    """
    (part, *others), channels = moved.parts, moved.channels[:, 1]
    if others or part.fill is not None or any(table is not None for table in part.tables):
        return None
    places = (part.source.lead, *part.source.outer) == (stored.lead, *stored.outer)
    run = bool((np.diff(channels) == 1).all())
    return int(channels[0]) if places and run else None


def taken(moved: Gather, loop: int, indices: NDArray[Any], fill: int | None = None) -> Gather:
    """The elements at `indices` along one physical dimension, `fill` at holes."""
    if loop < len(moved.parts[0].tables):
        return replace(moved, parts=tuple(_taken(part, loop, indices, fill) for part in moved.parts))
    channels = moved.channels[indices]
    used, numbers = np.unique(channels[:, 0], return_inverse=True)
    return replace(moved, parts=tuple(moved.parts[part] for part in used), channels=np.stack([numbers, channels[:, 1]], 1))


def _taken(part: Part, loop: int, indices: NDArray[Any], fill: int | None) -> Part:
    old, held = part.tables[loop], fill if part.fill is None else part.fill
    table = indices if old is None else np.where(indices == HOLE, HOLE, old[indices])
    unmoved = old is None and np.array_equal(indices, np.arange(len(indices)))
    return replace(part, tables=(*part.tables[:loop], None if unmoved else table.astype(np.int32), *part.tables[loop + 1 :]), fill=held)


def joined(values: Sequence[Gather]) -> Gather:
    """The channels of one value after those of another."""
    parts = tuple(part for value in values for part in value.parts)
    firsts = np.cumsum([0, *(len(value.parts) for value in values)])
    channels = np.concatenate([value.channels + np.array([first, 0]) for value, first in zip(values, firsts[:-1], strict=True)])
    return Gather(parts, channels, tuple(node for value in values for node in value.nodes))


def separated(base: fx.Node, steps: Sequence[fx.Node]) -> list[NDArray[np.int64]] | None:
    """What views and permutations take of each dimension of `base` but the first; None where they mix dimensions or images.

    The steps are run on the elements' own numbers: a channel shuffle, three operators over five dimensions, is seen to
    permute channels and nothing else.
    """
    shape = tuple(base.meta["val"].shape[1:])
    if len(steps[-1].meta["val"].shape) != 1 + len(shape) or not all(map(_within_images, steps)):
        return None
    elements = np.arange(prod(shape)).reshape(1, *shape)
    for step in steps:
        order = permutation_of(step)
        elements = elements.reshape(1, *step.meta["val"].shape[1:]) if order is None else elements.transpose(order)
    tables = []
    for dimension, index in enumerate(np.unravel_index(elements[0], shape)):
        line = index[tuple(slice(None) if d == dimension else slice(1) for d in range(len(shape)))]
        if (index != line).any():
            return None
        tables.append(line.reshape(-1))
    return tables


def _within_images(step: fx.Node) -> bool:
    """A view or permutation that leaves dimension 0 as it is, of others that are numbers."""
    source, order = arguments(step)["self"], permutation_of(step)
    if step.target in PICKING or not all(isinstance(size, int) for node in (source, step) for size in node.meta["val"].shape[1:]):
        return False
    return sizes_of(step)[0] == sizes_of(source)[0] and (order is None or order[0] == 0)
