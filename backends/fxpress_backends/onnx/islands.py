"""float islands of a mixed Program ==> ONNX nodes by torch's exporter, between the borders that the program has there.

All islands are exported together, as one graph that takes what they read and gives what others read; its nodes then stand
among the integer ones, and sorting by what each reads puts them in their places.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from fxpress_ir import Program
from fxpress_ir.errors import BackendError
from torch import fx

from ..reexport import island_nodes, part
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


def export_islands(program: Program, opset: int) -> Islands:
    """The islands in ONNX.

    Raises:
        BackendError: torch has no ONNX translation of an operator, or the result cannot stand inside another graph.
    """
    islands = part(program, island_nodes(program))
    names = [node.name for node in islands.inputs]
    model = translated(islands.module, islands.example(), islands.dynamic(), names, opset=opset)
    attributes = (attribute for node in model.graph for attribute in node.attributes.values())
    holds_graphs = any(attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in attributes)
    if model.functions or holds_graphs or model.graph.opset_imports != {"": opset}:
        raise BackendError("the float islands need functions or operators beyond the standard", way_on="quantise or rewrite them")
    for value, node in zip(model.graph.inputs, islands.inputs, strict=True):
        _check_symbolic(value, node)
    return Islands(model.graph, islands.inputs, islands.outputs)


def _check_symbolic(value: ir.Value, node: fx.Node) -> None:
    """torch.export makes a number of a size where an operator asks for it."""
    assert value.shape is not None
    sizes = node.meta["val"].shape
    if any(isinstance(found, int) and not isinstance(size, int) for found, size in zip(value.shape, sizes, strict=True)):
        way_on = "mark the dimension static, or quantise the island that reads it"
        raise BackendError(f"torch.export keeps only the example's size of {list(sizes)}", where=node.name, way_on=way_on)


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
