"""y = noop(x) ==> x: dropout in evaluation, aliases, casts and reshapes to what is already there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from fxpress_ir import Program
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from ..contract import Context, Exact, Pass, Promise

_aten = torch.ops.aten
Check = Callable[[fx.Node], bool]


def _always(node: fx.Node) -> bool:
    return True


def _in_evaluation(node: fx.Node) -> bool:
    named = arguments(node)
    return not named["train"] or named["p"] == 0


def _same_type(node: fx.Node) -> bool:
    source = _source(node)
    return source is not None and source.dtype == node.meta["val"].dtype and source.device == node.meta["val"].device


def _same_shape(node: fx.Node) -> bool:
    source = _source(node)
    return source is not None and list(source.shape) == list(node.meta["val"].shape)


def _same_order(node: fx.Node) -> bool:
    named = arguments(node)
    rank = node.meta["val"].dim()
    return [d % rank for d in named["dims"]] == list(range(rank))


def _single_window(node: fx.Node) -> bool:
    named = arguments(node)
    size, stride = named["kernel_size"], named.get("stride") or named["kernel_size"]
    return {*size} == {1} and {*stride} == {1} and not any(named["padding"])


def _multiplies_by_one(node: fx.Node) -> bool:
    return arguments(node)["other"] == 1 and _same_type(node)


def _source(node: fx.Node) -> Any:
    value = node.args[0].meta.get("val") if isinstance(node.args[0], fx.Node) else None
    return value if isinstance(value, Tensor) else None


NOOPS: dict[Any, Check] = {
    _aten.alias.default: _always,
    _aten.detach.default: _always,
    _aten.lift_fresh_copy.default: _always,
    _aten.dropout.default: _in_evaluation,
    _aten.feature_dropout.default: _in_evaluation,
    _aten.alpha_dropout.default: _in_evaluation,
    _aten.clone.default: lambda node: arguments(node)["memory_format"] in (None, torch.preserve_format),
    _aten.to.dtype: _same_type,
    _aten.to.dtype_layout: _same_type,
    _aten.to.device: _same_type,
    _aten.type_as.default: _same_type,
    _aten._to_copy.default: _same_type,
    _aten.view.default: _same_shape,
    _aten.reshape.default: _same_shape,
    _aten.flatten.using_ints: _same_shape,
    _aten.expand.default: _same_shape,
    _aten.slice.Tensor: _same_shape,
    _aten.permute.default: _same_order,
    _aten.max_pool2d.default: _single_window,
    _aten.avg_pool2d.default: _single_window,
    _aten.mul.Tensor: _multiplies_by_one,
    _aten.div.Tensor: _multiplies_by_one,
}
"""Operators that may do nothing, and when they do."""


@dataclass(frozen=True)
class RemoveNoops(Pass):
    """Drop operators that return their first argument unchanged, bit for bit (x + 0 is not one: it turns -0 into 0)."""

    name: ClassVar[str] = "remove-noops"
    promise: ClassVar[Promise] = Exact()

    def apply(self, program: Program, context: Context) -> Program:
        found = [node for node in program.graph.nodes if node.target in NOOPS and NOOPS[node.target](node)]
        if not found:
            return program
        edit = program.edit()
        for node in map(edit.here, found):
            edit.replace(node, node.args[0])  # type: ignore[arg-type]
        return edit.finish()
