"""A program's run on one batch, kept whole, so that a change is run from where it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from fxpress_ir import Program
from torch import Tensor, fx
from torch.fx.node import map_arg

from ..calibration import Batch
from ..losses import first_float

_NO_INPUTS: Mapping[str, Callable[[Tensor], Tensor]] = {}


class Recorded(fx.Interpreter):
    """Values of all nodes for one batch; memory holds them all, and those of one change.

    Args:
        weights: what tensors of the program have other values throughout.
    """

    def __init__(self, program: Program, batch: Batch, weights: Mapping[str, Tensor]) -> None:
        super().__init__(program.module, garbage_collect_values=False)
        self.extra_traceback = False  # it would make an error's one line many
        self._weights = weights
        with torch.no_grad():
            self.original = first_float(self.run(*batch))

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._weights[target] if target in self._weights else super().get_attr(target, args, kwargs)

    def operand(self, name: str) -> Tensor:
        """What the node of that name reads first."""
        node = next(node for node in self.module.graph.nodes if node.name == name)  # type: ignore[union-attr]
        value: Tensor = self.env[node.args[0]]
        return value

    def changed(self, weights: Mapping[str, Tensor], inputs: Mapping[str, Callable[[Tensor], Tensor]] = _NO_INPUTS) -> Tensor:
        """The first floating-point output with other weights, and other first operands of some nodes, by their names."""
        found: dict[fx.Node, Any] = {}

        def value(node: fx.Node) -> Any:
            return found[node] if node in found else self.env[node]

        with torch.no_grad():
            for node in self.module.graph.nodes:  # type: ignore[union-attr]
                if node.op == "get_attr" and node.target in weights:
                    found[node] = weights[node.target]
                elif node.op == "call_function" and (node.name in inputs or any(used in found for used in node.all_input_nodes)):
                    args, kwargs = map_arg(node.args, value), map_arg(node.kwargs, value)
                    if node.name in inputs:
                        args = (inputs[node.name](args[0]), *args[1:])
                    found[node] = node.target(*args, **kwargs)
                elif node.op == "output":
                    return first_float(tuple(map_arg(node.args[0], value)))
        raise AssertionError("a graph has an output")
