"""roll(x, shift, dim) ==> cat(x[size - shift:], x[:size - shift], dim), one dimension after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from fxpress_ir import Edit, Program
from fxpress_ir.ops import arguments
from torch import fx

from ..contract import Context, Exact, Pass, Promise

_aten = torch.ops.aten


@dataclass(frozen=True)
class DecomposeRoll(Pass):
    """Write the rotation of static dimensions as what it copies; shifts by whole turns go."""

    name: ClassVar[str] = "decompose-roll"
    promise: ClassVar[Promise] = Exact()

    def apply(self, program: Program, context: Context) -> Program:
        found = []
        for node in program.graph.find_nodes(op="call_function", target=_aten.roll.default):
            reason = _refusal(node)
            if reason:
                context.refuse(node, reason, "it stays a roll")
            else:
                found.append(node)
        if not found:
            return program
        edit = program.edit()
        for node in map(edit.here, found):
            with edit.graph.inserting_before(node):
                rolled = _written_out(edit, node)
            edit.replace(node, rolled)
        return edit.finish()


def _refusal(node: fx.Node) -> str | None:
    named = arguments(node)
    if not named["dims"]:
        return "it rolls all values as one row"
    if not all(isinstance(shift, int) for shift in named["shifts"]):
        return "its shift is computed"
    shape = named["self"].meta["val"].shape
    for shift, dim in zip(named["shifts"], named["dims"], strict=True):
        if shift and not isinstance(shape[dim], int):
            return f"dimension {dim % len(shape)}, which it rolls, is symbolic"
    return None


def _written_out(edit: Edit, node: fx.Node) -> fx.Node:
    named = arguments(node)
    x: fx.Node = named["self"]
    value, rolled = x.meta["val"], x
    for shift, dim in zip(named["shifts"], named["dims"], strict=True):
        size = value.shape[dim]
        if not shift or not size or shift % size == 0:
            continue
        start = size - shift % size
        ends = [edit.call(_aten.slice.Tensor, rolled, dim, *part, like=node) for part in ((start, size), (0, start))]
        rolled = edit.call(_aten.cat.default, ends, dim, like=node)
    if rolled is x and str(value.stride()) != str(node.meta["val"].stride()):
        return edit.call(_aten.contiguous.default, x, like=node)  # what reads a roll may view it
    return rolled
