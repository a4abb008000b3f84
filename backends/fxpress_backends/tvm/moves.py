"""Operators that move values ==> indices along dimensions; only concatenation along other dimensions than channels copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from fxpress_ir.ops import arguments
from numpy.typing import NDArray
from torch import fx

from . import pack
from .draft import Draft
from .gather import HOLE, Gather, joined, taken, whole
from .nodes import is_identity
from .sizes import Size

_aten = torch.ops.aten


def rearrange(draft: Draft, node: fx.Node) -> None:
    """A shape operator."""
    if is_identity(node) or draft.known(node) is not None:
        return
    if node.target is _aten.slice.Tensor and _by_tables(draft, node):
        _slice(draft, node)
    elif node.target is _aten.expand.default and _by_tables(draft, node):
        _expand(draft, node)
    else:
        draft.chain(node)


def _by_tables(draft: Draft, node: fx.Node) -> bool:
    """The dimensions that change, the innermost one and the ends of a slice are numbers."""
    if node.target is _aten.slice.Tensor and len(node.all_input_nodes) > 1:
        return False
    before, after = draft.extents(arguments(node)["self"]), draft.extents(node)
    if len(before) != len(after) or isinstance(draft.stored(node).innermost, Size):
        return False
    return not any(isinstance(size, Size) for sizes in zip(before, after, strict=True) if sizes[0] != sizes[1] for size in sizes)


def _along(draft: Draft, node: fx.Node, moved: Gather, indices: Mapping[int, NDArray[np.int64]], fill: int | None = None) -> Gather:
    """What is taken along several logical dimensions."""
    for dimension, chosen in indices.items():
        moved = taken(moved, draft.loop_of(node, dimension), chosen, fill)
    return moved


def _slice(draft: Draft, node: fx.Node) -> None:
    named = arguments(node)
    size = named["self"].meta["val"].shape[named["dim"]]
    chosen = np.arange(size)[named["start"] : named["end"] : named["step"]]
    draft.move(node, _along(draft, node, draft.moved(named["self"]), {named["dim"]: chosen}))


def _expand(draft: Draft, node: fx.Node) -> None:
    """Dimensions of size 1 are read again and again."""
    source = arguments(node)["self"]
    before, after = draft.extents(source), draft.extents(node)
    grown = {d: np.zeros(size, np.int64) for d, size in enumerate(after) if isinstance(size, int) and size != before[d]}
    draft.move(node, _along(draft, node, draft.moved(source), grown))


def embedding(draft: Draft, node: fx.Node) -> None:
    """Rows of the table as readers store them; its numbers are read as they enter, or as rows."""
    named, stored = arguments(node), draft.stored(node)
    ids, result = draft.in_rows(named["indices"]), draft.rows_like(stored)
    table = draft.program.tensors[str(named["weight"].target)].numpy()
    held = replace(result, lead=len(table), shape=table.shape[1:])
    draft.emit("embedding", [ids], result, [node], constants={"table": pack.stored_array(table, held)})
    if result != stored:
        draft.emit("rearrange", [result], stored, [node], {"steps": []})


def select2d(draft: Draft, node: fx.Node) -> None:
    named = arguments(node)
    draft.move(node, _along(draft, node, draft.moved(named["x"]), {2: np.array(named["rows"]), 3: np.array(named["columns"])}))


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
    draft.move(node, _along(draft, node, moved, indices, fill))


def concat(draft: Draft, node: fx.Node) -> None:
    named = arguments(node)
    values: Sequence[fx.Node] = named["xs"]
    loop = draft.loop_of(node, named["axis"])
    if loop == len(node.meta["val"].shape) - 1:
        draft.move(node, joined([draft.moved(x) for x in values]))
    else:
        draft.emit("concat", [draft.buffer(x) for x in values], draft.stored(node), [node], {"axis": loop})
