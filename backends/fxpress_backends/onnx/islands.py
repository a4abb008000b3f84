"""float islands of a mixed Program ==> ONNX nodes by torch's exporter, between the borders that the program has there.

All islands are exported together, as one graph that takes what they read and gives what others read; its nodes then stand
among the integer ones, and sorting by what each reads puts them in their places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from fxpress_ir import Program
from fxpress_ir.errors import BackendError
from fxpress_ir.ops import SIZE_OPERATORS
from torch import Tensor, fx

from .float_ import translated
from .walk import Walk

PREFIX = "island/"
"""What the names of nodes and values in an island begin with."""


@dataclass(frozen=True)
class Islands:
    """The exported graph and the program's nodes behind its inputs and outputs."""

    graph: ir.Graph
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]


def island_nodes(program: Program) -> frozenset[fx.Node]:
    """The nodes that compute in floats."""
    names = set(program.islands)
    return frozenset(node for node in program.graph.nodes if node.name in names)


def read_values(program: Program) -> tuple[fx.Node, ...]:
    """The values that islands read, for their numbers or their sizes, in the program's order."""
    copied = _copied(program)
    read = {used for node in copied for used in node.all_input_nodes if used not in copied and used.op != "get_attr"}
    return tuple(node for node in program.graph.nodes if node in read)


def export_islands(program: Program, opset: int) -> Islands:
    """The islands in ONNX.

    Raises:
        BackendError: torch has no ONNX translation of an operator, or the result cannot stand inside another graph.
    """
    inside, inputs = island_nodes(program), read_values(program)
    tensors = (node for node in program.graph.nodes if node in inside and isinstance(node.meta["val"], Tensor))
    outputs = tuple(node for node in tensors if any(user not in inside for user in node.users))
    module = _module(program, inputs, outputs)
    dynamic = tuple({d: torch.export.Dim.AUTO for d, s in enumerate(_sizes(node)) if not isinstance(s, int)} for node in inputs)
    model = translated(module, tuple(map(_example, inputs)), dynamic, [node.name for node in inputs], opset=opset)
    attributes = (attribute for node in model.graph for attribute in node.attributes.values())
    holds_graphs = any(attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in attributes)
    if model.functions or holds_graphs or model.graph.opset_imports != {"": opset}:
        raise BackendError("the float islands need functions or operators beyond the standard", way_on="quantise or rewrite them")
    for value, node in zip(model.graph.inputs, inputs, strict=True):
        _check_symbolic(value, node)
    return Islands(model.graph, inputs, outputs)


def _check_symbolic(value: ir.Value, node: fx.Node) -> None:
    """torch.export makes a number of a size where an operator asks for it."""
    assert value.shape is not None
    if any(isinstance(found, int) and not isinstance(size, int) for found, size in zip(value.shape, _sizes(node), strict=True)):
        way_on = "mark the dimension static, or quantise the island that reads it"
        raise BackendError(f"torch.export keeps only the example's size of {list(_sizes(node))}", where=node.name, way_on=way_on)


def _copied(program: Program) -> frozenset[fx.Node]:
    """The islands and the arithmetic on sizes that they use."""
    copied = set(island_nodes(program))
    for node in reversed(program.graph.nodes):
        sizes = node.target in SIZE_OPERATORS or (node.op == "call_function" and not isinstance(node.meta["val"], (Tensor, tuple, list)))
        if sizes and any(user in copied for user in node.users):
            copied.add(node)
    return frozenset(copied)


def _module(program: Program, inputs: tuple[fx.Node, ...], outputs: tuple[fx.Node, ...]) -> fx.GraphModule:
    graph, copied = fx.Graph(), _copied(program)
    here = {node: graph.placeholder(node.name) for node in inputs}
    for node in program.graph.nodes:
        if node in copied or (node.op == "get_attr" and any(user in copied for user in node.users)):
            here[node] = graph.node_copy(node, here.__getitem__)
    graph.output(tuple(here[node] for node in outputs))
    return fx.GraphModule(dict(program.tensors), graph)


def _sizes(node: fx.Node) -> Any:
    return node.meta["val"].shape


def _example(node: fx.Node) -> Tensor:
    """Zeros of the captured example's size."""
    return torch.zeros([size if isinstance(size, int) else size.node.hint for size in _sizes(node)], dtype=node.meta["val"].dtype)


def settle(walk: Walk, islands: Islands) -> None:
    """Take the islands' nodes and constants into the walk, under names of their own; their outputs become values.

    To be called before the walk; `connect` joins the inputs when all values are known.
    """
    graph = islands.graph
    outputs, constants, nodes = list(graph.outputs), list(graph.initializers.values()), list(graph)
    graph.outputs.clear()
    graph.initializers.clear()
    graph.remove(nodes)
    for constant in constants:
        _rename(walk, constant)
        walk.initializers.append(constant)
    for node in nodes:
        node.name = walk.unique(f"{PREFIX}{node.name}")
        for value in node.outputs:
            _rename(walk, value)
        walk.nodes.append(node)
    walk.values.update(zip(islands.outputs, outputs, strict=True))


def connect(walk: Walk, islands: Islands) -> None:
    """Let the islands read the values of the walk."""
    for value, node in zip(islands.graph.inputs, islands.inputs, strict=True):
        value.replace_all_uses_with(walk.value(node))
        walk.values.update({output: walk.value(node) for output in islands.outputs if walk.values[output] is value})


def _rename(walk: Walk, value: ir.Value) -> None:
    value.name = walk.unique(f"{PREFIX}{value.name}")
    if value.const_value is not None:
        value.const_value.name = value.name
