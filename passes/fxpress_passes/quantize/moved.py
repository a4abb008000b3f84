"""slice, view, expand of a constant ==> the constant; another one moved alike."""

from __future__ import annotations

from typing import Any, Literal

import torch
from fxpress_ir import Edit
from fxpress_ir.ops import arguments
from torch import fx

_aten = torch.ops.aten
MOVES = frozenset(
    {
        *(_aten.slice.Tensor, _aten.unsqueeze.default, _aten.expand.default),
        *(_aten.view.default, _aten.reshape.default, _aten.flatten.using_ints),
    }
)


def is_constant(node: Any) -> bool:
    """A tensor of the program, moved or not."""
    while isinstance(node, fx.Node) and node.target in MOVES:
        node = node.args[0]
    return isinstance(node, fx.Node) and node.op == "get_attr"


def source_of(chain: fx.Node) -> fx.Node:
    """The tensor of the program that a chain of moves begins with."""
    while chain.op != "get_attr":
        chain = chain.args[0]  # type: ignore[assignment]
    return chain


def moved(edit: Edit, chain: fx.Node, constant: fx.Node) -> fx.Node:
    """`constant` moved as `chain` moves the tensor that it begins with, which has the same shape."""
    if chain.op == "get_attr":
        return constant
    made = edit.call(chain.target, moved(edit, chain.args[0], constant), *chain.args[1:], like=chain)  # type: ignore[arg-type]
    made.kwargs = chain.kwargs
    return made


def rows_of(chain: fx.Node) -> Literal["whole", "cut"] | None:
    """What the rows (last dimensions) of a moved constant are: rows of the constant, their beginnings, or None: something else."""
    if chain.op == "get_attr":
        return "whole" if chain.meta["val"].dim() else None
    source: fx.Node = chain.args[0]  # type: ignore[assignment]
    rows, rank = rows_of(source), source.meta["val"].dim()
    if rows is None or chain.target is not _aten.slice.Tensor:
        # as text, because a comparison of symbolic sizes would be remembered as a fact about them
        kept = [str(node.meta["val"].shape[-1:]) for node in (chain, source)]
        return rows if kept[0] == kept[1] else None
    named = arguments(chain)
    if named["dim"] % rank != rank - 1:
        return rows
    return "cut" if not named["start"] and named["step"] == 1 else None
