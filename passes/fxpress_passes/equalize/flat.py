"""view(linear(view(x, [-1, channels])), [batch, positions, rows]) ==> linear(x)."""

from __future__ import annotations

import torch
from fxpress_ir import Program
from fxpress_ir.ops import SIZE_OPERATORS, arguments
from torch import fx

from .sites import is_layer

_aten = torch.ops.aten
_VIEWS = frozenset({_aten.view.default, _aten.reshape.default, _aten.flatten.using_ints})
"""Operators that keep the order of elements."""


def over_positions(program: Program) -> Program:
    """The same program with layers over flattened positions [batch * positions, channels] as layers over [batch, positions, channels].

    Only where all that read such a layer bring its positions back; the program itself where there is none.
    """
    found = {node: views for node in program.graph.nodes if is_layer(node) and (views := _views_behind(node))}
    if not found:
        return program
    edit = program.edit()
    for layer, views in found.items():
        flat: fx.Node = arguments(edit.here(layer))["input"]
        edit.here(layer).replace_input_with(flat, flat.args[0])  # type: ignore[arg-type]
        for view in views:
            edit.replace(edit.here(view), edit.here(layer))
    return edit.finish()


def _views_behind(layer: fx.Node) -> list[fx.Node]:
    """The views that bring positions back, if nothing else reads the layer and its input is flattened positions."""
    flat: fx.Node = arguments(layer)["input"]
    if flat.target not in _VIEWS or flat.meta["val"].dim() != 2 or any(user.target in SIZE_OPERATORS for user in layer.users):
        return []
    source: fx.Node = flat.args[0]  # type: ignore[assignment]
    # as text, because a comparison of symbolic sizes would be remembered as a fact about them
    before = [str(size) for size in source.meta["val"].shape]
    if len(before) != 3 or before[2] != str(flat.meta["val"].shape[1]):
        return []
    wanted = [*before[:2], str(layer.meta["val"].shape[1])]
    views = list(layer.users)
    back = all(view.target in _VIEWS and [str(size) for size in view.meta["val"].shape] == wanted for view in views)
    return views if back else []
