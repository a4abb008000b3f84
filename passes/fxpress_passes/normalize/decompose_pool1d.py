"""pool(x[n, c, l]), conv(x[n, c, l]), mean of one dimension ==> squeeze(the same on images of height 1 (unsqueeze(x)))."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from fxpress_ir import Edit, Program
from fxpress_ir.ops import arguments
from torch import fx

from ..contract import Close, Context, Pass, Promise

_aten = torch.ops.aten
_HEIGHT = 2
"""The dimension of size 1 that is put in: [n, c, l] becomes [n, c, 1, l]."""
_STEPS = {"stride": 1, "dilation": 1}
_WINDOW = {**_STEPS, "kernel_size": 1, "padding": 0}
_ON_IMAGES: dict[Any, tuple[Any, dict[str, int]]] = {
    _aten.adaptive_avg_pool1d.default: (_aten.adaptive_avg_pool2d.default, {"output_size": 1}),
    _aten.avg_pool1d.default: (_aten.avg_pool2d.default, _WINDOW),
    _aten.max_pool1d.default: (_aten.max_pool2d.default, _WINDOW),
    _aten.conv1d.default: (_aten.conv2d.default, {**_STEPS, "padding": 0}),
    _aten.conv1d.padding: (_aten.conv2d.padding, _STEPS),
}
"""The operator on images, and what each of its sizes is along the height."""


@dataclass(frozen=True)
class DecomposePool1d(Pass):
    """Write what slides over, or averages, one dimension of three as what does so over an image of height 1.

    Pools and means keep their bits; convolutions moved by at most 1e-6 of the largest value (torch 2.13, 5,587 cases).
    """

    name: ClassVar[str] = "decompose-pool1d"
    promise: ClassVar[Promise] = Close(1e-5, "convolutions of images add products in another order")
    after: ClassVar[tuple[str, ...]] = ("fold-constants", "fold-batch-norm", "compose-rms-norm")

    def apply(self, program: Program, context: Context) -> Program:
        found = []
        for node in program.graph.nodes:
            if node.target not in _ON_IMAGES and not _averages_one_of_three(node):
                continue
            reason = _refusal(node)
            if reason:
                context.refuse(node, reason, "it stays as it is")
            else:
                found.append(node)
        if not found:
            return program
        edit = program.edit()
        for node in map(edit.here, found):
            with edit.graph.inserting_before(node):
                written = _on_images(edit, node) if node.target in _ON_IMAGES else _mean(edit, node)
            edit.replace(node, written)
        return edit.finish()


def _averages_one_of_three(node: fx.Node) -> bool:
    if node.target is not _aten.mean.dim:
        return False
    named = arguments(node)
    return named["self"].meta["val"].dim() == 3 and len(named["dim"] or []) == 1


def _refusal(node: fx.Node) -> str | None:
    named = arguments(node)
    shape = next(iter(named.values())).meta["val"].shape
    if node.target is _aten.mean.dim:
        if not isinstance(shape[named["dim"][0]], int):
            return "the dimension that it averages is symbolic"
        return None if named["dtype"] is None else f"it computes in {named['dtype']}"
    if len(shape) != 3:
        return "its input has no batch dimension"
    if "weight" in named and named["weight"].op != "get_attr":
        return "its weight is computed, not constant"
    return None


def _on_images(edit: Edit, node: fx.Node) -> fx.Node:
    target, along = _ON_IMAGES[node.target]
    (_, x), *rest = arguments(node).items()
    args: list[Any] = [edit.call(_aten.unsqueeze.default, x, _HEIGHT, like=node)]
    for name, value in rest:
        if name == "weight":
            args.append(edit.add_tensor(f"{value.target}.image", edit.tensor(value).detach().unsqueeze(_HEIGHT)))
        elif name in along and value != []:
            args.append([along[name], *([value] if isinstance(value, int) else value)])
        else:
            args.append(value)
    return edit.call(_aten.squeeze.dim, edit.call(target, *args, like=node), _HEIGHT, like=node)


def _mean(edit: Edit, node: fx.Node) -> fx.Node:
    """The averaged dimension last, as the width of an image."""
    named = arguments(node)
    x, averaged = named["self"], named["dim"][0] % 3
    if averaged != 2:
        x = edit.call(_aten.permute.default, x, [*(dim for dim in range(3) if dim != averaged), averaged], like=node)
    image = edit.call(_aten.unsqueeze.default, x, _HEIGHT, like=node)
    mean = edit.call(_aten.mean.dim, image, [_HEIGHT, _HEIGHT + 1], like=node)
    return edit.call(_aten.unsqueeze.default, mean, averaged, like=node) if named["keepdim"] else mean
