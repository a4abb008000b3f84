"""normalize, with each affine map that runs in its registers ==> a group that reads the row twice and stores no normalised value."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from fxpress_ir.ops import RSQRT_TABLE, arguments
from numpy.typing import NDArray
from torch import fx

from . import pack
from .draft import Draft

_fxp = torch.ops.fxp


def normalize(draft: Draft, node: fx.Node) -> None:
    """Waits for its readers where all of them are affine maps along the rows: each computes it anew."""
    if not _fuses(node):
        _emit(draft, node, None)


def finish_row(draft: Draft, affine: fx.Node) -> bool:
    """Emit the normalisation that an affine map belongs to; False where there is none."""
    u = arguments(affine)["u"]
    if u.target is not _fxp.normalize.default or not _fuses(u):
        return False
    _emit(draft, u, affine)
    return True


def map_of(draft: Draft, affine: fx.Node, size: int) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Gains and offsets of an affine map as two rows of `size`, and its settings."""
    named = arguments(affine)
    rows = [pack.spread(draft.constant(named[operand]), size) for operand in ("g", "b")]
    return {"map": np.stack(rows).astype(np.int32)}, {"shift": named["c"], "qmin": named["qmin"], "qmax": named["qmax"]}


def _fuses(node: fx.Node) -> bool:
    rank = len(node.meta["val"].shape)

    def along_rows(user: fx.Node) -> bool:
        named = arguments(user)
        single = all(named[operand].meta["val"].numel() == 1 for operand in ("g", "b"))
        return single or bool((named["axis"] + 1) % rank == 0)

    return bool(node.users) and all(user.target is _fxp.affine.default and along_rows(user) for user in node.users)


def _emit(draft: Draft, node: fx.Node, affine: fx.Node | None) -> None:
    """A kernel of rows; an image, whose last dimension is not its channels, is copied to rows and back."""
    named = arguments(node)
    source, last = draft.in_rows(named["x"]), affine or node
    stored = draft.stored(last)
    result, magnitude = draft.rows_like(stored), int(draft.interval(named["x"]).magnitude.max())
    constants, settings = ({}, {}) if affine is None else map_of(draft, affine, result.channels)
    lane = -(-source.logical_channels // pack.LANES)
    settings |= {"epsilon": named["epsilon"], "centre": named["centre"], "wide": lane * magnitude**2 >= 1 << 31}
    first = affine is None or next(iter(node.users)) is affine
    tables = {"seeds": np.array(RSQRT_TABLE, np.int32), **constants}
    draft.emit("normalize", [source], result, [*([node] if first else []), *([affine] if affine else [])], settings, tables, owner=last)
    if result != stored:
        draft.emit("rearrange", [result], stored, [last], {"steps": []})
