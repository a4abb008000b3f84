"""layer(x) ==> its pieces, one after the other; the last one has the bias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from fxpress_ir import Edit
from fxpress_ir.ops import arguments
from torch import fx

from ..evidence.second_moments import pair
from .decompositions import Piece


def split(edit: Edit, nodes: Sequence[fx.Node], pieces: Sequence[Piece], dtype: torch.dtype) -> None:
    """Write each of an edit's `nodes`, which share a weight, as `pieces`, whose weights they share."""
    stem = str(arguments(nodes[0])["weight"].target).removesuffix(".weight")
    with edit.graph.inserting_before(nodes[0]):
        weights = add_weights(edit, f"{stem}.factor", pieces, dtype)
    for node in nodes:
        with edit.graph.inserting_before(node):
            names = [f"{node.name}_{place}" for place in range(len(pieces))]
            value = chain(edit, node, pieces, weights, arguments(node)["bias"], names)
        edit.replace(node, value)


def add_weights(edit: Edit, stem: str, pieces: Sequence[Piece], dtype: torch.dtype) -> list[fx.Node]:
    """The pieces' weights as tensors ``stem_0``, ``stem_1`` ... of the program, at the insertion point."""
    return [edit.add_tensor(f"{stem}_{place}", piece.weight.to(dtype).contiguous()) for place, piece in enumerate(pieces)]


def chain(
    edit: Edit, like: fx.Node, pieces: Sequence[Piece], weights: Sequence[fx.Node], bias: fx.Node | None, names: Sequence[str]
) -> fx.Node:
    """At the insertion point, the pieces one after the other on the input of the layer `like`; the last node."""
    named = arguments(like)
    target: Any = like.target
    value: fx.Node = named["input"]
    for place, (piece, weight, name) in enumerate(zip(pieces, weights, names, strict=True)):
        last = bias if place == len(pieces) - 1 else None
        value = edit.call(target, value, weight, last, *_window(named, piece), like=like, name=name)
    return value


def _window(named: dict[str, Any], piece: Piece) -> tuple[Any, ...]:
    if "stride" not in named:
        return ()
    padding = named["padding"]
    where = piece.windowed
    held = padding if isinstance(padding, str) else [given if kept else 0 for given, kept in zip(pair(padding), where, strict=True)]
    stride, dilation = (
        [given if kept else 1 for given, kept in zip(pair(named[key]), where, strict=True)] for key in ("stride", "dilation")
    )
    return stride, held, dilation, 1
