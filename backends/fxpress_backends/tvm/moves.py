"""Operators that move values ==> indices along dimensions; only concatenation along other dimensions than channels copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from fxpress_ir.ops import arguments
from numpy.typing import NDArray
from torch import fx

from .draft import Draft
from .gather import HOLE, Gather, joined, taken, whole
from .nodes import is_identity, loop_of

_aten = torch.ops.aten


def rearrange(draft: Draft, node: fx.Node) -> None:
    """A shape operator."""
    if is_identity(node):
        return
    if node.target is _aten.slice.Tensor:
        _slice(draft, node)
    elif node.target is _aten.expand.default:
        _expand(draft, node)
    else:
        draft.chain(node)


def _along(node: fx.Node, moved: Gather, indices: Mapping[int, NDArray[np.int64]], fill: int | None = None) -> Gather:
    """What is taken along several logical dimensions."""
    rank = len(node.meta["val"].shape)
    for dimension, chosen in indices.items():
        moved = taken(moved, loop_of(rank, dimension), chosen, fill)
    return moved


def _slice(draft: Draft, node: fx.Node) -> None:
    named = arguments(node)
    size = named["self"].meta["val"].shape[named["dim"]]
    chosen = np.arange(size)[named["start"] : named["end"] : named["step"]]
    draft.move(node, _along(node, draft.moved(named["self"]), {named["dim"]: chosen}))


def _expand(draft: Draft, node: fx.Node) -> None:
    """Dimensions of size 1 are read again and again; kernels see to that for a dynamic first one."""
    source = arguments(node)["self"]
    before, after = source.meta["val"].shape, node.meta["val"].shape
    fixed = {d: size for d, size in enumerate(after) if isinstance(size, int) and isinstance(before[d], int) and size != before[d]}
    moved = whole(draft.buffer(source)) if isinstance(before[0], int) and not isinstance(after[0], int) else draft.moved(source)
    draft.move(node, _along(node, moved, {d: np.zeros(size, np.int64) for d, size in fixed.items()}))


def select2d(draft: Draft, node: fx.Node) -> None:
    named = arguments(node)
    draft.move(node, _along(node, draft.moved(named["x"]), {2: np.array(named["rows"]), 3: np.array(named["columns"])}))


def insert_zeros(draft: Draft, node: fx.Node) -> None:
    """Each index is followed by stride - 1 holes."""
    named = arguments(node)
    size = named["x"].meta["val"].shape
    spread = {2 + d: np.full((size[2 + d], named["stride"][d]), HOLE) for d in (0, 1)}
    for dimension, indices in spread.items():
        indices[:, 0] = np.arange(size[dimension])
    _fill(draft, node, {dimension: indices.reshape(-1) for dimension, indices in spread.items()}, 0)


def pad2d(draft: Draft, node: fx.Node) -> None:
    """Holes before and after; a negative padding leaves indices out."""
    named = arguments(node)
    size, (top, left, bottom, right) = named["x"].meta["val"].shape, named["padding"]
    _fill(draft, node, {2: _padded(size[2], top, bottom), 3: _padded(size[3], left, right)}, named["value"])


def _padded(size: int, before: int, after: int) -> NDArray[np.int64]:
    indices = np.arange(-before, size + after)
    return np.where((indices >= 0) & (indices < size), indices, HOLE)


def _fill(draft: Draft, node: fx.Node, indices: Mapping[int, NDArray[np.int64]], fill: int) -> None:
    """Parts hold one kind of fill each: a value that was filled otherwise before is copied first."""
    x = arguments(node)["x"]
    moved = draft.moved(x)
    if any(part.fill not in (None, fill) for part in moved.parts):
        moved = whole(draft.buffer(x))
    draft.move(node, _along(node, moved, indices, fill))


def concat(draft: Draft, node: fx.Node) -> None:
    named, rank = arguments(node), len(node.meta["val"].shape)
    values: Sequence[fx.Node] = named["xs"]
    loop = loop_of(rank, named["axis"])
    if loop == rank - 1:
        draft.move(node, joined([draft.moved(x) for x in values]))
    else:
        draft.emit("concat", [draft.buffer(x) for x in values], draft.stored(node), [node], {"axis": loop})
