"""y = noop(x) ==> x: dropout in evaluation, aliases, casts and reshapes to what is already there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from fxpress_ir import Program
from fxpress_ir.ops import arguments
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from ..contract import Context, Exact, Pass, Promise

_aten = torch.ops.aten
Check = Callable[[fx.Node], bool]


def _always(node: fx.Node) -> bool:
    return True


def _in_evaluation(node: fx.Node) -> bool:
    named = arguments(node)
    return not named["train"] or named["p"] == 0


def _same_order(node: fx.Node) -> bool:
    named = arguments(node)
    rank = node.meta["val"].dim()
    return [d % rank for d in named["dims"]] == list(range(rank))


def _single_window(node: fx.Node) -> bool:
    named = arguments(node)
    size, stride = named["kernel_size"], named.get("stride") or named["kernel_size"]
    return {*size} == {1} and {*stride} == {1} and not any(named["padding"])


def _adds_no_border(node: fx.Node) -> bool:
    return not any(arguments(node)["pad"])


def _multiplies_by_one(node: fx.Node) -> bool:
    return bool(arguments(node)["other"] == 1)


def _keeps_form(node: fx.Node) -> bool:
    """Type, shape and strides stay, at every size that a symbolic dimension can have; later views rely on strides."""
    source = node.args[0].meta.get("val") if isinstance(node.args[0], fx.Node) else None
    value = node.meta["val"]
    if not isinstance(source, Tensor) or (source.dtype, source.device, source.dim()) != (value.dtype, value.device, value.dim()):
        return False
    strides = zip(source.shape, source.stride(), value.stride(), strict=True)
    same_shape = all(statically_known_true(a == b) for a, b in zip(source.shape, value.shape, strict=True))
    return same_shape and all(statically_known_true(size == 1) or statically_known_true(a == b) for size, a, b in strides)


NOOPS: dict[Any, Check] = {
    _aten.alias.default: _always,
    _aten.detach.default: _always,
    _aten.lift_fresh_copy.default: _always,
    _aten.dropout.default: _in_evaluation,
    _aten.feature_dropout.default: _in_evaluation,
    _aten.alpha_dropout.default: _in_evaluation,
    _aten.clone.default: _always,
    _aten.to.dtype: _always,
    _aten.to.dtype_layout: _always,
    _aten.to.device: _always,
    _aten.type_as.default: _always,
    _aten._to_copy.default: _always,
    _aten.view.default: _always,
    _aten.reshape.default: _always,
    _aten.flatten.using_ints: _always,
    _aten.expand.default: _always,
    _aten.slice.Tensor: _always,
    _aten.permute.default: _same_order,
    _aten.max_pool2d.default: _single_window,
    _aten.pad.default: _adds_no_border,
    _aten.constant_pad_nd.default: _adds_no_border,
    _aten.mul.Tensor: _multiplies_by_one,
    _aten.div.Tensor: _multiplies_by_one,
}
"""Operators that do nothing where the form of their argument is that of their result and the check holds.

Adding 0 and averaging over one element are none: they turn -0 into 0.
"""


@dataclass(frozen=True)
class RemoveNoops(Pass):
    """Drop operators that return their first argument unchanged, bit for bit."""

    name: ClassVar[str] = "remove-noops"
    promise: ClassVar[Promise] = Exact()

    def apply(self, program: Program, context: Context) -> Program:
        found = [node for node in program.graph.nodes if node.target in NOOPS and _keeps_form(node) and NOOPS[node.target](node)]
        if not found:
            return program
        edit = program.edit()
        for node in map(edit.here, found):
            edit.replace(node, node.args[0])  # type: ignore[arg-type]
        return edit.finish()
