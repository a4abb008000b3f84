"""cat([x, nothing, y]) ==> cat([x, y]), and cat([x]) ==> x where it has the form that the concatenation had."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from fxpress_ir import Program
from fxpress_ir.analysis.sizes import is_empty
from fxpress_ir.ops import arguments
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from ..contract import Context, Exact, Pass, Promise

_aten = torch.ops.aten


@dataclass(frozen=True)
class RemoveEmpty(Pass):
    """Drop the parts of a concatenation that have no elements at any size, such as the cache of keys that a prefix begins.

    A concatenation of one part that is laid out in another order stays, as the copy that it is; so does one whose type or strides are
    those of an empty part.
    """

    name: ClassVar[str] = "remove-empty"
    promise: ClassVar[Promise] = Exact()

    def apply(self, program: Program, context: Context) -> Program:
        found = [node for node in program.graph.find_nodes(op="call_function", target=_aten.cat.default) if _rest(node) is not None]
        if not found:
            return program
        edit = program.edit()
        for node in map(edit.here, found):
            rest = _rest(node)
            assert rest is not None
            if len(rest) == 1 and _same_form(rest[0].meta["val"], node.meta["val"]):
                edit.replace(node, rest[0])
            else:
                node.args = (rest, arguments(node)["dim"])
                node.kwargs = {}
        return edit.finish()


def _rest(node: fx.Node) -> list[fx.Node] | None:
    """The parts with elements, None where all of them or none have any, or where the result would have another form without the others."""
    named: dict[str, Any] = arguments(node)
    parts: list[fx.Node] = list(named["tensors"])
    rest = [part for part in parts if not is_empty(part.meta["val"])]
    if not 0 < len(rest) < len(parts):
        return None
    return rest if _same_form(_aten.cat.default([part.meta["val"] for part in rest], named["dim"]), node.meta["val"]) else None


def _same_form(value: Tensor, other: Tensor) -> bool:
    """Of equal shape, one type and the same strides wherever more than one element follows them."""
    if value.dtype != other.dtype or value.dim() != other.dim():
        return False
    if not all(statically_known_true(a == b) for a, b in zip(value.shape, other.shape, strict=True)):
        return False
    strides = zip(value.shape, value.stride(), other.stride(), strict=True)
    return all(statically_known_true(size == 1) or statically_known_true(a == b) for size, a, b in strides)
