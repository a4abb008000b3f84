"""float nodes of a Program ==> a module of their own for torch.export: what it takes, what it gives, which sizes stay symbolic."""

from __future__ import annotations

import copy
from collections.abc import Set
from dataclasses import dataclass
from typing import Any

import torch
from fxpress_ir import Program
from fxpress_ir.ops import SIZE_OPERATORS
from torch import Tensor, fx

_aten = torch.ops.aten
_VIEWS = (_aten.view.default, _aten.reshape.default, _aten.flatten.using_ints)


@dataclass(frozen=True, eq=False)
class Part:
    """Nodes of a program as a module.

    Attributes:
        module: takes the values of `inputs`, returns the tuple of those of `outputs`; its nodes keep their names.
        inputs, outputs: nodes of the program.
    """

    module: fx.GraphModule
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]

    def example(self) -> tuple[Tensor, ...]:
        """Zeros of the captured example's sizes."""
        return tuple(map(_zeros, self.inputs))

    def dynamic(self) -> tuple[dict[int, Any], ...]:
        """For each input the dimensions that torch.export keeps symbolic."""
        return tuple(dict.fromkeys(symbolic_dimensions(node), torch.export.Dim.AUTO) for node in self.inputs)


def whole(program: Program) -> Part:
    """The whole program."""
    return Part(fx.GraphModule(dict(program.tensors), copy.deepcopy(program.graph)), program.placeholders(), program.outputs())


def part(program: Program, inside: Set[fx.Node]) -> Part:
    """Some nodes, with the arithmetic on sizes that they use; it takes what they read and gives what others read of them."""
    copied = _with_sizes(program, inside)
    read = read_values(program, inside)
    computed = (node for node in program.graph.nodes if node in inside and isinstance(node.meta["val"], Tensor))
    given = tuple(node for node in computed if any(user not in inside for user in node.users))
    graph = fx.Graph()
    here = {node: graph.placeholder(node.name) for node in read}
    for node, placeholder in here.items():
        placeholder.meta["val"] = node.meta["val"]
    for node in program.graph.nodes:
        if node in copied or (node.op == "get_attr" and any(user in copied for user in node.users)):
            here[node] = graph.node_copy(node, here.__getitem__)
    graph.output(tuple(here[node] for node in given))
    return Part(fx.GraphModule(dict(program.tensors), graph), read, given)


def island_nodes(program: Program) -> frozenset[fx.Node]:
    """The nodes of a mixed program that compute in floats."""
    names = set(program.islands)
    return frozenset(node for node in program.graph.nodes if node.name in names)


def read_values(program: Program, inside: Set[fx.Node]) -> tuple[fx.Node, ...]:
    """The values that nodes read from outside, for their numbers or their sizes, in the program's order."""
    copied = _with_sizes(program, inside)
    read = {used for node in copied for used in node.all_input_nodes if used not in copied and used.op != "get_attr"}
    return tuple(node for node in program.graph.nodes if node in read)


def symbolic_dimensions(node: fx.Node) -> tuple[int, ...]:
    return tuple(d for d, size in enumerate(node.meta["val"].shape) if not isinstance(size, int))


def is_size(node: fx.Node) -> bool:
    """A node that asks for a size or computes on sizes."""
    return node.target in SIZE_OPERATORS or (node.op == "call_function" and not isinstance(node.meta["val"], (Tensor, tuple, list)))


def origin_of(node: fx.Node) -> str:
    """The name, in a module that was exported, of the node that this one of the export came from."""
    name, sources = node.name, node.meta.get("from_node")
    while sources:
        name, sources = sources[-1].name, sources[-1].from_node
    return name


def settle(module: fx.GraphModule) -> None:
    """Put a contiguous copy before each view.

    torch's decompositions change strides (of attention's output, for one), so that a view which fits the captured operators
    no longer fits theirs (Swin, GPT-2). Where it changes nothing, exporters drop it.
    """
    for node in [node for node in module.graph.nodes if node.target in _VIEWS]:
        with module.graph.inserting_before(node):
            settled = module.graph.call_function(_aten.clone.default, (node.args[0],), {"memory_format": torch.contiguous_format})
        node.replace_input_with(node.args[0], settled)
    module.recompile()


def _with_sizes(program: Program, inside: Set[fx.Node]) -> frozenset[fx.Node]:
    copied = set(inside)
    for node in reversed(program.graph.nodes):
        if is_size(node) and any(user in copied for user in node.users):
            copied.add(node)
    return frozenset(copied)


def _zeros(node: fx.Node) -> Tensor:
    value = node.meta["val"]
    return torch.zeros([size if isinstance(size, int) else size.node.hint for size in value.shape], dtype=value.dtype)
