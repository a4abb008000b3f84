"""Program ==> model.onnx: for integers one walk over the graph, one table of emitters a flavour."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir
from fxpress_ir import Program
from fxpress_ir.errors import BackendError
from torch import Tensor

from ..contract import Target
from ..reexport import island_nodes
from .border import border_scales, declared, released, stored
from .float_ import export
from .integer import F1
from .islands import connect, export_islands, settle
from .legalize import COMPUTED, refusals
from .narrow import TWO_BITS, record
from .qlinear import F2
from .scan import scan
from .walk import Flavour, Walk

FILE = "model.onnx"
FLAVOURS = {"onnx:int": F1, "onnx:qlinear": F2}
COMPUTED_PRODUCTS = "fxpress.computed_products"
"""The metadata of a model that multiplies computed tensors: no session entry makes their kernels exact on every processor."""
OPSET, IR_VERSION = 21, 10
OPSET_OF_2_BITS, IR_VERSION_OF_2_BITS = 25, 13
"""The first that have INT2; ONNX Runtime makes the same of both opsets, but only a recent one knows the second."""
INLINE_LIMIT = (1 << 31) - (1 << 24)
"""Protocol buffers end at 2 GiB; larger weights go to a file beside the model."""


def emit(program: Program, flavour: Flavour) -> ir.Model:
    """An integer or mixed program in standard operators; the same program gives the same model.

    Raises:
        BackendError: its float islands cannot be exported.
    """
    walk, inside = Walk(program), island_nodes(program)
    islands = export_islands(program, OPSET) if inside else None
    if islands is not None:
        settle(walk, islands)
    inputs = [declared(spec) for spec in program.inputs]
    for value, node in zip(inputs, program.placeholders(), strict=True):
        walk.enter(node)
        walk.values[node] = stored(walk, value)
    for node in program.graph.nodes:
        emitted = node.op == "call_function" and isinstance(node.meta["val"], Tensor) and node not in inside
        if emitted and not flavour.absorbs(node, program):
            walk.enter(node)
            walk.values[node] = flavour.emitters[node.target](walk, node)
    if islands is not None:
        connect(walk, islands)
    outputs: list[ir.Value] = []
    for node in program.outputs():
        walk.enter(node)
        outputs.append(released(walk, node, outputs))
    two_bits = any(value.const_value is not None and value.const_value.dtype in TWO_BITS for value in walk.initializers)
    opset, ir_version = (OPSET_OF_2_BITS, IR_VERSION_OF_2_BITS) if two_bits else (OPSET, IR_VERSION)
    graph = ir.Graph(inputs, outputs, nodes=walk.nodes, initializers=walk.initializers, opset_imports={"": opset}, name="fxpress")
    if islands is not None:
        graph.sort()  # a ring would need an island that reads a size off what follows it; inputs, in order, come first
    return ir.Model(graph, ir_version=ir_version, doc_string=f"{flavour.name}: {flavour.summary}")


def lower(program: Program, target: Target, folder: Path) -> Mapping[str, Any]:
    """Write ``model.onnx`` into `folder`; an F1 file is scanned, and is gone again when the scan finds something.

    Raises:
        BackendError: the program is refused, or the scan found a float or a division.
    """
    flavour = FLAVOURS.get(target.name)
    if target.name == "onnx:qdq":
        from .qdq import export_simulated

        model = export_simulated(program)
    elif flavour is None:
        model = export(program)
    elif refused := refusals(program, flavour):
        raise BackendError(refused[0].reason, where=f"{target.name}, {refused[0].node}", way_on=refused[0].way_on)
    else:
        model = emit(program, flavour)
    model.producer_name, model.producer_version = "fxpress", version("fxpress")
    model.metadata_props.update({"fxpress.target": target.name, "fxpress.program": program.hash})
    if flavour is not None:
        if any(node.target in COMPUTED for node in program.graph.nodes):
            model.metadata_props[COMPUTED_PRODUCTS] = "u8 x s8"
        model.metadata_props["fxpress.scales"] = json.dumps(border_scales(program), sort_keys=True)
    details: dict[str, Any] = {"opset": model.graph.opset_imports[""], "nodes": model.graph.num_nodes()}
    if narrow := record(model):
        details["packed"] = narrow
    written = write(model, folder)
    if flavour is not F1:
        return details
    try:
        return {**details, "scan": scan(folder / FILE, program.islands)}
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise


def write(model: ir.Model, folder: Path, *, limit: int = INLINE_LIMIT) -> tuple[Path, ...]:
    """Serialise into `folder`; weights stay inside the file up to `limit` bytes. Returns the files written."""
    path, beside = folder / FILE, folder / f"{FILE}.data"
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    if weights <= limit:
        path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
        return (path,)
    ir.save(model, path, external_data=beside.name)
    return path, beside
