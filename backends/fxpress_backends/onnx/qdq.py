"""simulated Program ==> float operators between QuantizeLinear and DequantizeLinear: the form that other toolchains read.

For interoperability, never the reference: what a runtime fuses and how it rounds there is its own affair, so that results
are close to the program's and not its bits. Activations are u8, with zero point 128 where the program's are s8; weights are
s8, quantised here; wider values (16 bits) are rounded among floats, because the int16 operators come with a later opset.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from fxpress_ir import Program
from numpy.typing import NDArray
from onnxscript import opset20 as op

from .float_ import OPSET, export

assert op.version == OPSET
_fxp = torch.ops.fxp


def export_simulated(program: Program) -> ir.Model:
    """The program in ONNX.

    Raises:
        BackendError: torch has no ONNX translation of an operator, or cannot export the program again.
    """
    model = export(program, _TRANSLATIONS)
    _quantize_weights(model)
    return model


def _fake_quantize(x: Any, scale: float, qmin: int, qmax: int) -> Any:
    zero = 0 if qmin >= 0 else 128
    step = op.Constant(value=ir.tensor(np.float32(scale)))
    if qmin + zero < 0 or qmax + zero > 255:
        bounds = (op.Constant(value=ir.tensor(np.float32(bound))) for bound in (qmin, qmax))
        return op.Mul(op.Clip(op.Round(op.Div(x, step)), *bounds), step)
    point = op.Constant(value=ir.tensor(np.uint8(zero)))
    q = op.QuantizeLinear(x, step, point)
    if (qmin + zero, qmax + zero) != (0, 255):
        q = op.Clip(q, *(op.Constant(value=ir.tensor(np.uint8(bound + zero))) for bound in (qmin, qmax)))
    return op.DequantizeLinear(q, step, point)


def _fake_quantize_channels(x: Any, scale: Any, axis: int, qmin: int, qmax: int) -> Any:
    if qmin < -128 or qmax > 127:
        return op.Identity(x)
    steps, points = op.Cast(scale, to=ir.DataType.FLOAT), op.Constant(value=ir.tensor(np.zeros(scale.shape[0], np.int8)))
    bounds = (op.Constant(value=ir.tensor(np.int8(bound))) for bound in (qmin, qmax))
    return op.DequantizeLinear(op.Clip(op.QuantizeLinear(x, steps, points, axis=axis), *bounds), steps, points, axis=axis)


_TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    _fxp.fake_quantize.default: _fake_quantize,
    _fxp.fake_quantize_channels.default: _fake_quantize_channels,
}


def _quantize_weights(model: ir.Model) -> None:
    """Weight, QuantizeLinear and Clip become the weight's integers, computed as the program computes them; equal ones are stored once."""
    graph = model.graph
    known: dict[bytes, ir.Value] = {}
    for clip in [node for node in graph if node.op_type == "Clip"]:
        quantize = clip.inputs[0].producer() if clip.inputs[0] is not None else None
        if quantize is None or quantize.op_type != "QuantizeLinear":
            continue
        weight: Any = quantize.inputs[0]
        if not weight.is_initializer():
            continue
        codes = _codes(_array(weight), _array(quantize.inputs[1]), quantize.attributes["axis"].as_int())
        codes = np.clip(codes, *map(_array, clip.inputs[1:])).astype(np.int8)
        key = repr(codes.shape).encode() + codes.tobytes()
        if key not in known:
            name = f"{weight.name}.int8" if f"{weight.name}.int8" not in graph.initializers else f"{weight.name}.int8_{len(known)}"
            known[key] = ir.val(name, const_value=ir.Tensor(codes, name=name))
            graph.initializers.add(known[key])
        clip.outputs[0].replace_all_uses_with(known[key])
        graph.remove([clip, quantize], safe=True)
        if not weight.uses():
            graph.initializers.pop(weight.name)


def _codes(weight: NDArray[np.float32], scale: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    steps: NDArray[np.float32] = np.rint(weight / scale.reshape([-1 if d == axis % weight.ndim else 1 for d in range(weight.ndim)]))
    return steps


def _array(value: Any) -> Any:
    return value.const_value.numpy()
