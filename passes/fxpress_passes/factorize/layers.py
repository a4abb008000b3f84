"""program ==> the linear layers and convolutions with a constant weight, and why others are left alone."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from fxpress_ir import Program
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from ..contract import Context
from ..evidence.second_moments import LAYERS

_WIDE = (torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class Layer:
    """The nodes that compute with one weight, in order, and the weight, [outputs, inputs, *window]."""

    nodes: tuple[fx.Node, ...]
    weight: Tensor

    @property
    def name(self) -> str:
        """Of the first node."""
        return self.nodes[0].name


def float_layers(program: Program, context: Context) -> list[Layer]:
    """Layers whose weight nothing else reads; the others are refused."""
    found = []
    for tensor, nodes in _by_weight(program).items():
        weight, first = program.tensors[tensor].detach(), nodes[0]
        others = _other_readers(program, tensor, nodes)
        groups = {arguments(node).get("groups", 1) for node in nodes}
        if groups != {1}:
            which = "depthwise" if weight.shape[1] == 1 else f"in {max(groups)} groups"
            context.refuse(first, f"its convolution is {which}: its channels see too little of the input to share directions")
        elif others:
            context.refuse(first, f"{others[0].name} reads the whole weight too")
        elif weight.dtype not in _WIDE:
            context.refuse(first, f"{weight.dtype} factors would lose digits", "convert the model to float32")
        elif not bool(weight.isfinite().all()):
            context.refuse(first, f"its weight {tensor} holds NaN or infinity", "repair the model")
        else:
            found.append(Layer(tuple(nodes), weight))
    return found


def _by_weight(program: Program) -> dict[str, list[fx.Node]]:
    found: dict[str, list[fx.Node]] = defaultdict(list)
    for node in program.graph.nodes:
        if node.target in LAYERS and arguments(node)["weight"].op == "get_attr":
            found[str(arguments(node)["weight"].target)].append(node)
    return found


def _other_readers(program: Program, tensor: str, nodes: list[fx.Node]) -> list[fx.Node]:
    """Readers of a tensor other than as the weight of `nodes`; one of `nodes` may read it as its input too."""
    sources = [node for node in program.graph.find_nodes(op="get_attr") if str(node.target) == tensor]
    return [user for source in sources for user in source.users if user not in nodes or arguments(user)["input"] is source]
