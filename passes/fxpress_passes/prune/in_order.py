"""Program, batches ==> every layer in its order with the second moment of what it reads, given the weights that earlier ones got."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce

import torch
from fxpress_ir import Program
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from ..evidence.calibration import Batch
from ..evidence.second_moment import SecondMoment
from ..evidence.second_moments import moment_of
from .layers import Layer

Decide = Callable[[Layer, SecondMoment], Tensor | None]
"""A layer and E[x x^T] of its inputs ==> its new weight, None for the old one."""


def in_order(program: Program, batches: Iterable[Batch], layers: Sequence[Layer], decide: Decide) -> None:
    """Run all batches side by side, node by node; `decide` is asked before a layer runs, so that later ones see what it decides.

    One walk through the program; memory holds the live values of all batches. A weight that several layers share is decided on
    what the first of them reads.
    """
    first = {layer.name: layer for layer in layers}
    runs = [_Run(program.module, batch) for batch in batches]
    with torch.no_grad():
        for node in program.module.graph.nodes:
            if node.name in first:
                layer, x = first[node.name], arguments(node)["input"]
                moment: SecondMoment = reduce(SecondMoment.merge, (moment_of(node, run.env[x]) for run in runs))
                weight = decide(layer, moment)
                for run in runs if weight is not None else ():
                    run.replace(layer.weight, weight)
            for run in runs:
                run.step(node)


class _Run(fx.Interpreter):
    """One batch on its way through the graph."""

    def __init__(self, module: fx.GraphModule, batch: Batch) -> None:
        super().__init__(module)
        self.extra_traceback = False  # it would make an error's one line many
        self.args_iter = iter(batch)
        self._replaced: dict[str, Tensor | None] = {}

    def step(self, node: fx.Node) -> None:
        if node.op == "get_attr" and node.target in self._replaced:
            self.env[node] = self._replaced[str(node.target)]
        elif node.op != "output":
            self.env[node] = self.run_node(node)
        for used in self.user_to_last_uses.get(node, ()):
            del self.env[used]

    def replace(self, name: str, weight: Tensor | None) -> None:
        """The tensor called `name` is another one from now on."""
        self._replaced[name] = weight
        for node in self.env:
            if node.op == "get_attr" and node.target == name:
                self.env[node] = weight
