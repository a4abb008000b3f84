"""The graph that ONNX Runtime optimised holds no float between the borders and divides nowhere: read off its types."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
from fxpress_ir.errors import BackendError
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_FORBIDDEN = frozenset({"Div", "Mod", "ReduceMean", "ReduceSum"})
"""Division, and sums that ONNX Runtime accumulates in double."""


def scan(path: Path) -> dict[str, Any]:
    """Prove the model at `path`, after every graph optimisation, and count what was looked at.

    Returns:
        ``{"nodes": int, "values": int, "border": int, "types": {name: count}}``; border counts the float values there.

    Raises:
        BackendError: a float value or initialiser between the borders, a value of unknown type, a forbidden node.
    """
    with TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        _optimise(path, optimised)
        model = onnx.shape_inference.infer_shapes(onnx.load(optimised, load_external_data=False))
    return _checked(model)


def _optimise(path: Path, optimised: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(optimised)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _checked(model: ModelProto) -> dict[str, Any]:
    graph = model.graph
    types = _types(graph)
    border = _border(graph)
    sizes = _sizes(graph)
    for node in graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise _found(f"node {node.name!r} holds a subgraph, which is not scanned")
        if node.op_type in _FORBIDDEN and node.output[0] not in sizes:
            raise _found(f"node {node.name!r} is a {node.op_type}")
    for name, kind in types.items():
        if kind in _FLOATS and name not in border:
            raise _found(f"value {name!r} is {TensorProto.DataType.Name(kind)}")
    for name in (name for node in graph.node for name in node.output if name):
        if types.get(name, TensorProto.UNDEFINED) == TensorProto.UNDEFINED:
            raise _found(f"value {name!r} has no known type")
    counts = Counter(TensorProto.DataType.Name(kind) for kind in types.values())
    floats = sum(kind in _FLOATS for kind in types.values())
    return {"nodes": len(graph.node), "values": len(types), "border": floats, "types": dict(sorted(counts.items()))}


def _found(what: str) -> BackendError:
    return BackendError(f"{what}; the optimised graph is not integer between its borders", where="scan", way_on="report the program")


def _types(graph: GraphProto) -> dict[str, int]:
    found = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    found.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    return found


def _border(graph: GraphProto) -> set[str]:
    """Inputs that are only quantised, outputs that are dequantised, an input handed on as output, and their scales."""
    inputs, outputs = ({value.name for value in values} for values in (graph.input, graph.output))
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
    return {"QuantizeLinear": enters, "DequantizeLinear": leaves, "Identity": enters and leaves}.get(node.op_type, False)


def _sizes(graph: GraphProto) -> set[str]:
    """Values computed from Shape and constants alone: arithmetic on sizes, where dividing is allowed."""
    known = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Shape" or all(name in known for name in node.input):
            known.update(node.output)
    return known
