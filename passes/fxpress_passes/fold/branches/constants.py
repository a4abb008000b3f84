"""f(constants) ==> what it is: computed once, by the graph's own operators in the graph's own dtypes."""

from __future__ import annotations

import operator
from typing import Any

import torch
from fxpress_ir import Edit
from torch import Tensor, fx
from torch.fx.node import map_arg

_aten = torch.ops.aten
_UNWRITTEN = frozenset({_aten.empty.memory_format, _aten.empty_like.default, _aten.new_empty.default, _aten.empty_strided.default})
"""Operators whose result holds whatever was in memory."""


class Constants:
    """The nodes of an edit that depend on no input, and their values."""

    def __init__(self, edit: Edit) -> None:
        self._edit = edit
        self._known: dict[fx.Node, bool] = {}
        self._values: dict[fx.Node, Any] = {}
        for node in edit.graph.nodes:
            self.has(node)

    def has(self, node: fx.Node) -> bool:
        """The node gives the same tensors whatever the inputs are: no input, no random number, no symbolic size."""
        if node not in self._known:
            self._known[node] = node.op == "get_attr" or (_computes(node) and all(map(self.has, node.all_input_nodes)))
        return self._known[node]

    def value(self, node: fx.Node) -> Any:
        """What a constant node gives, bit for bit as the graph computes it."""
        if node.op == "get_attr":
            return self._edit.tensor(node).detach()
        if node not in self._values:
            args, kwargs = map_arg((node.args, node.kwargs), self.value)
            with torch.no_grad():
                self._values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return self._values[node]

    def forget(self) -> None:
        """Drop what was computed."""
        self._values.clear()


def _computes(node: fx.Node) -> bool:
    if node.op != "call_function" or node.target in _UNWRITTEN:
        return False
    values = node.meta.get("val")
    tensors = values if isinstance(values, (tuple, list)) else [values]
    if not all(isinstance(value, Tensor) and all(isinstance(size, int) for size in value.shape) for value in tensors):
        return False
    if node.target is operator.getitem:
        return True
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded not in node.target.tags
