"""float input -> QuantizeLinear -> storage ... storage -> DequantizeLinear -> float output; integer borders change sign bits only."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir
import torch
from fxpress_ir import InputSpec, Program
from fxpress_ir.ops import arguments
from torch import fx

from .walk import ISLAND_DTYPES, STORAGE, Walk

_SIGN = np.uint8(128)
"""u8 = s8 + 128 and back is the sign bit, flipped: casts between s8 and u8 keep the bits."""


def declared(spec: InputSpec) -> ir.Value:
    """The graph's input, in the program's name, type and shape."""
    return ir.val(spec.name, ISLAND_DTYPES[spec.dtype], [size if isinstance(size, int) else str(size) for size in spec.shape])


def stored(walk: Walk, value: ir.Value) -> ir.Value:
    """An input as it is held inside the graph."""
    if value.dtype == ir.DataType.INT16:
        return walk.op("Cast", value, to=ir.DataType.INT32)
    if value.dtype != ir.DataType.INT8:
        return value
    return walk.op("BitwiseXor", walk.op("Cast", value, to=ir.DataType.UINT8), walk.constant(_SIGN))


def released(walk: Walk, node: fx.Node, taken: Collection[ir.Value]) -> ir.Value:
    """An output in the program's type, named after its node; what is an input or in `taken` leaves as a copy."""
    value, kind = walk.value(node), ISLAND_DTYPES[node.meta["val"].dtype]
    if kind == ir.DataType.INT8:
        value = walk.op("Cast", walk.op("BitwiseXor", value, walk.constant(_SIGN)), to=kind)
    elif kind == ir.DataType.INT16:
        value = walk.op("Cast", value, to=kind)
    elif value in taken or value.producer() is None:
        value = walk.op("Identity", value)
    value.name, value.dtype, value.shape = walk.unique(node.name), kind, ir.Shape(walk.program.shape_of(node))
    return value


def quantize(walk: Walk, node: fx.Node) -> ir.Value:
    """clamp(rint(f32(x) / f32(scale))) + zero point; a range narrower than the type is clipped. 16-bit values pass through int16."""
    named = arguments(node)
    kind, zero = STORAGE[named["dtype"]]
    wide = kind == ir.DataType.INT32
    point = np.int16(0) if wide else np.uint8(zero)
    facts = {"scale": named["scale"], "range": [named["qmin"], named["qmax"]]}
    x = walk.op("QuantizeLinear", walk.value(named["x"]), walk.constant(np.float32(named["scale"])), walk.constant(point), facts=facts)
    if wide:
        x = walk.op("Cast", x, to=kind)
    return clipped(walk, x, node, named["qmin"], named["qmax"])


def clipped(walk: Walk, value: ir.Value, node: fx.Node, qmin: int, qmax: int) -> ir.Value:
    """`value`, which is already saturated to its storage type, held to [qmin, qmax]; nothing where that is the type's range."""
    kind, zero = STORAGE[node.meta["val"].dtype]
    number = np.int32 if kind == ir.DataType.INT32 else np.uint8
    limits = np.iinfo(np.int16 if number is np.int32 else number)
    if qmin + zero <= limits.min and qmax + zero >= limits.max:
        return value
    return walk.op("Clip", value, walk.constant(number(qmin + zero)), walk.constant(number(qmax + zero)))


def dequantize(walk: Walk, node: fx.Node) -> ir.Value:
    """f32(q) * f32(scale)."""
    named = arguments(node)
    q = named["q"]
    point = (walk.point(q),) if q.meta["val"].dtype.itemsize == 1 else ()
    return walk.op("DequantizeLinear", walk.value(q), walk.constant(np.float32(named["scale"])), *point, facts={"scale": named["scale"]})


def border_scales(program: Program) -> dict[str, float]:
    """The real scale of every input and output that takes or gives steps, and of every quantised and dequantised value, by node."""
    borders = (torch.ops.fxp.quantize.default, torch.ops.fxp.dequantize.default)
    inner = {node.name: float(arguments(node)["scale"]) for node in program.graph.nodes if node.target in borders}
    outputs = {node.name: scale for node, scale in zip(program.outputs(), program.output_steps(), strict=True) if scale is not None}
    return {**{spec.name: spec.scale for spec in program.inputs if spec.scale is not None}, **outputs, **inner}
