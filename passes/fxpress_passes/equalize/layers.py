"""A linear layer, a change of its weight and bias ==> the layer with both changed, as tensors of its own."""

from __future__ import annotations

from collections.abc import Callable

from fxpress_ir import Edit
from fxpress_ir.ops import arguments
from torch import Tensor, fx

Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Weight [rows, channels, ...] and bias [rows] in float64 to the next ones."""


def rewrite(edit: Edit, layer: fx.Node, change: Change) -> None:
    """Another weight and bias, computed in float64, for a linear layer or a convolution; what `change` gives back as it was stays.

    A bias of zeros is not added.
    """
    named = arguments(layer)
    before = edit.tensor(named["weight"]).detach().double()
    old = before.new_zeros(len(before)) if named["bias"] is None else edit.tensor(named["bias"]).detach().double()
    weight, bias = change(before, old)
    parts = [named["input"], named["weight"], named["bias"]]
    if weight is not before:
        parts[1] = constant(edit, layer, str(named["weight"].target), weight)
    if bias is not old and (named["bias"] is not None or bool(bias.any())):
        parts[2] = constant(edit, layer, f"{layer.name}.bias" if named["bias"] is None else str(named["bias"].target), bias)
    layer.args, layer.kwargs = (*parts, *list(named.values())[3:]), {}


def constant(edit: Edit, before: fx.Node, name: str, value: Tensor) -> fx.Node:
    """A float32 tensor of the program, in front of the node that reads it."""
    with edit.graph.inserting_before(before):
        return edit.add_tensor(name, value.float().contiguous())
