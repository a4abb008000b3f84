"""The graph that ONNX Runtime optimised holds no float between the borders, islands aside, and divides nowhere: read off its types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
from fxpress_ir.errors import BackendError
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from .islands import PREFIX

UNFUSED = {"session.disable_quant_qdq": "1"}
"""Without it ONNX Runtime would make an island between two borders an operator of its own, and the scan could not tell."""

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_FORBIDDEN = frozenset({"Div", "Mod", "ReduceMean", "ReduceSum"})
"""Division, and sums that ONNX Runtime accumulates in double."""


def scan(path: Path, islands: Collection[str] = ()) -> dict[str, Any]:
    """Prove the model at `path`, after every graph optimisation, and count what was looked at.

    Args:
        islands: names of the program's nodes that compute in floats.

    Returns:
        ``{"nodes": int, "values": int, "border": int, "types": {name: count}}``; border counts the float values there and
        in islands.

    Raises:
        BackendError: a float value or initialiser between the borders, a value of unknown type, a forbidden node.
    """
    with TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        _optimise(path, optimised)
        model = onnx.shape_inference.infer_shapes(onnx.load(optimised, load_external_data=False))
    return _checked(model, frozenset(islands))


def _optimise(path: Path, optimised: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(optimised)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
    for key, value in UNFUSED.items():
        options.add_session_config_entry(key, value)
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _checked(model: ModelProto, islands: frozenset[str]) -> dict[str, Any]:
    graph = model.graph
    types = _types(graph)
    inside = _islands(graph, types, islands) if islands else set()
    border = _border(graph, inside)
    sizes = _sizes(graph)
    for node in graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise _found(f"node {node.name!r} holds a subgraph, which is not scanned")
        if node.op_type in _FORBIDDEN and node.output[0] not in sizes | inside:
            raise _found(f"node {node.name!r} is a {node.op_type}")
    for name, kind in types.items():
        if kind in _FLOATS and name not in border | inside:
            raise _found(f"value {name!r} is {TensorProto.DataType.Name(kind)}")
    for name in (name for node in graph.node for name in node.output if name and name not in inside):
        if types.get(name, TensorProto.UNDEFINED) == TensorProto.UNDEFINED:
            raise _found(f"value {name!r} has no known type")
    counts = Counter(TensorProto.DataType.Name(kind) for kind in types.values())
    floats = sum(kind in _FLOATS for kind in types.values())
    return {"nodes": len(graph.node), "values": len(types), "border": floats, "types": dict(sorted(counts.items()))}


def _found(what: str) -> BackendError:
    return BackendError(f"{what}; the optimised graph is not integer between its borders", where="scan", way_on="report the program")


def _types(graph: GraphProto) -> dict[str, int]:
    """Of every value that is there: what was fused away may still be declared."""
    made = {name for node in graph.node for name in node.output}
    declared = [*(value for value in graph.value_info if value.name in made), *graph.input, *graph.output]
    found = {value.name: value.type.tensor_type.elem_type for value in declared}
    found.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    return found


def _islands(graph: GraphProto, types: dict[str, int], islands: frozenset[str]) -> set[str]:
    """The values of islands: of the nodes and values that bear their names, and of all that floats join to those.

    Fusions give new names to what they make, inside an island; a type that shape inference does not know comes from a fusion.
    """

    def may_be_float(name: str) -> bool:
        return bool(name) and types.get(name, TensorProto.UNDEFINED) in (*_FLOATS, TensorProto.UNDEFINED)

    makers = {name: index for index, node in enumerate(graph.node) for name in node.output}
    joined: dict[int, set[int]] = {index: set() for index in range(len(graph.node))}
    for index, node in enumerate(graph.node):
        for maker in (makers[name] for name in node.input if name in makers and may_be_float(name)):
            joined[index].add(maker)
            joined[maker].add(index)
    named = [index for index, node in enumerate(graph.node) if _bears_name(node, islands)]
    reached, left = set(named), list(named)
    while left:
        new = joined[left.pop()] - reached
        reached |= new
        left += new
    floats = {name for index in reached for name in (*graph.node[index].input, *graph.node[index].output) if may_be_float(name)}
    return floats | {name for index in named for name in graph.node[index].output}


def _bears_name(node: NodeProto, islands: frozenset[str]) -> bool:
    return node.name.startswith(PREFIX) or any(name.startswith(PREFIX) or name in islands for name in node.output)


def _border(graph: GraphProto, inside: set[str]) -> set[str]:
    """Inputs that are only quantised and measured, outputs that are dequantised, an input handed on as output, and their scales."""
    inputs, outputs = ({value.name for value in values} | inside for values in (graph.input, graph.output))
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    nodes = [node for node in graph.node if _is_border(node, inputs, outputs)]
    names = {name for node in nodes for name in (*node.input, *node.output)}
    kept = {id(node) for node in nodes}
    return {name for name in names if all(id(reader) in kept for reader in readers.get(name, ()))}


def _is_border(node: NodeProto, inputs: set[str], outputs: set[str]) -> bool:
    enters, leaves = node.input[0] in inputs, node.output[0] in outputs
    return {"QuantizeLinear": enters, "Shape": enters, "DequantizeLinear": leaves, "Identity": enters and leaves}.get(node.op_type, False)


def _sizes(graph: GraphProto) -> set[str]:
    """Values computed from Shape and constants alone: arithmetic on sizes, where dividing is allowed."""
    known = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Shape" or all(name in known for name in node.input):
            known.update(node.output)
    return known
