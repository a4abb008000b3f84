"""Runs a program with a factor on each atom, where the layers that sum over it read it: 1 leaves it alone, 0 removes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fxpress_ir import Program
from fxpress_ir.analysis.coupling import Group, coupled_groups
from torch import Tensor, fx
from torch.fx.node import map_arg

from .places import places


@dataclass(frozen=True, eq=False)
class Read:
    """One reading of a group: a layer's operand, its dimension, and each entry's atom (`places`)."""

    group: Group
    operand: fx.Node
    dim: int
    places: Tensor

    def along(self, x: Tensor) -> Tensor:
        """`places` for every entry of a value: where a symbolic size is a multiple, they repeat."""
        return self.places.repeat(x.shape[self.dim] // len(self.places))


Seen = Callable[[Read, Tensor], None]


class Gates(fx.Interpreter):
    """The program under factors.

    Args:
        groups: those that have factors. Through a norm the factor of an atom is not its removal: the norm still counts it.
    """

    def __init__(self, program: Program, groups: Sequence[Group]) -> None:
        super().__init__(program.module)
        self.extra_traceback = False  # it would make an error's one line many
        self._reads = _reads(program, groups)
        self.groups = tuple(group for group in groups if any(read.group is group for reads in self._reads.values() for read in reads))
        """Those of which an atom is read by a layer that sums over it."""
        self._factors: Mapping[str, Tensor] = {}
        self._seen: Seen | None = None

    def outputs(self, inputs: Sequence[Tensor], factors: Mapping[str, Tensor], seen: Seen | None = None) -> tuple[Tensor, ...]:
        """The outputs for one batch.

        Args:
            factors: group name ==> [atoms]; a group without one is left alone.
            seen: called with every reading and the value that is read, before its factor.
        """
        self._factors, self._seen = factors, seen
        result: tuple[Tensor, ...] = tuple(self.run(*inputs))
        return result

    def run_node(self, n: fx.Node) -> Any:
        reads = self._reads.get(n.name)
        if not reads:
            return super().run_node(n)
        values = {used: self.env[used] for used in n.all_input_nodes}
        for read in reads:
            value = values[read.operand]
            if self._seen is not None:
                self._seen(read, value)
            if read.group.name in self._factors:
                values[read.operand] = value * _shaped(self._factors[read.group.name], read, value)
        args: Any = map_arg(n.args, values.__getitem__)
        kwargs: Any = map_arg(n.kwargs, values.__getitem__)
        return n.target(*args, **kwargs)  # type: ignore[operator]


def _shaped(factors: Tensor, read: Read, x: Tensor) -> Tensor:
    """One factor for each entry along the reading's dimension, 1 for those of other groups."""
    padded = torch.cat([factors, factors.new_ones(1)])[read.along(x)]
    return padded.to(x.dtype).reshape([-1 if dim == read.dim else 1 for dim in range(x.dim())])


def _reads(program: Program, groups: Sequence[Group]) -> dict[str, list[Read]]:
    """By the name of the node in the module's graph, which is a copy: operands are its nodes."""
    analysis, found = coupled_groups(program), dict[str, list[Read]]()
    nodes = {node.name: node for node in program.graph.nodes}
    copies = {node.name: node for node in program.module.graph.nodes}
    for group in groups:
        for name in group.consumers:
            for operand in nodes[name].all_input_nodes:
                if operand.op == "get_attr":
                    continue
                for dim, labels in enumerate(analysis.dimensions(operand)):
                    here = None if labels is None else places(labels, analysis, group)
                    if here is not None:
                        found.setdefault(name, []).append(Read(group, copies[operand.name], dim, here))
    return found
