"""F2: QLinearConv with scales (1, b * 2**-c, 1) gives the bits of clamp(rne(acc * b / 2**c)) for c <= 16 and 8-bit results.

Proof. Let Q <= 255 bound the result. Where |acc * b| <= 2**24, float32 holds acc and the product exactly and the kernel
rounds half to even. Elsewhere |acc * b / 2**c| > 2**24 / 2**16 > Q, and float32 conversion and multiplication are monotone,
so the value lies beyond the clamp on the same side. A product of two tensors is rescaled the same: x and y * b / 2**c are
exact (8 and 23 bits), their float32 product is x * y * b / 2**c rounded once, and the proof reads x * y for acc. An add of
two tensors is exact in float32 because b < 2**15 and operands have 8 bits; a fused kernel that leaves 2**24 has saturated
by then. Wider results are rounded in float64, which holds acc * b / 2**c (at most 32 and 15 bits) exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from fxpress_ir.ops import arguments
from numpy.typing import NDArray
from torch import fx

from . import integer
from .attention import accumulated, attended, keys, lowered, rescaled
from .border import clipped
from .integer import F1, absorbed, bias_of
from .narrow import signed
from .normalize import affine_in_float64
from .product import signed_bytes, signed_point
from .shapes import reshape
from .walk import STORAGE, Emit, Flavour, Walk, centred, zero_point

_fxp = torch.ops.fxp
_CHANNELS = 4
"""The convolutions of ONNX Runtime that gather nothing into a matrix take input channels in fours: an image of three gets
a channel of zeros (3x3 on 224x224: 163 -> 89 us, 7x7: 520 -> 375 us, two threads of a Zen 5)."""


def _dyadic(b: Any, c: int) -> NDArray[np.float32]:
    """b * 2**-c, exact in float32; a scalar for one multiplier."""
    values: NDArray[np.float32] = np.ldexp(np.asarray(b, np.float32), -c).astype(np.float32)
    return values.reshape([]) if values.size == 1 else values


def _convolution(walk: Walk, node: fx.Node, value: ir.Value, weight: ir.Value, **attributes: Any) -> ir.Value:
    """QLinearConv of the sum that `node`, a requantize, absorbed."""
    named = arguments(node)
    one, bias = walk.constant(np.float32(1)), bias_of(walk, named["x"])
    scale = walk.constant(_dyadic(walk.array(named["b"]), named["c"]))
    # ONNX Runtime's rewriting to u8 weights (run.py) fails on a weight zero point that several nodes share
    weight_point = walk.own_constant(np.int8(0), f"{node.name}/weight_point")
    operands = [value, one, walk.point(arguments(named["x"])["x"]), weight, scale, weight_point, one, walk.point(node)]
    if bias.any():
        operands.append(walk.constant(bias.astype(np.int32)))
    return walk.op("QLinearConv", *operands, facts={"shift": named["c"]}, **attributes)


def _conv2d(walk: Walk, node: fx.Node) -> ir.Value:
    conv = arguments(arguments(node)["x"])
    weight, image = walk.array(conv["weight"]), walk.value(conv["x"])
    missing = -weight.shape[1] % _CHANNELS
    if missing and conv["groups"] == 1 and (conv["x"].op == "placeholder" or conv["x"].target is _fxp.quantize.default):
        weight = np.pad(weight, ((0, 0), (0, missing), (0, 0), (0, 0)))
        image = walk.op("Pad", image, walk.constant(np.array([0, 0, 0, 0, 0, missing, 0, 0])), walk.point(conv["x"]))
    attributes = {"strides": conv["stride"], "pads": conv["padding"], "dilations": conv["dilation"], "group": conv["groups"]}
    return _convolution(walk, node, image, signed(walk, weight, str(conv["weight"].target)), **attributes)


def _linear(walk: Walk, node: fx.Node) -> ir.Value:
    """A 1x1 convolution over one image whose pixels are the rows: QLinearMatMul has no bias."""
    linear = arguments(arguments(node)["x"])
    weight = walk.array(linear["weight"])
    rows = walk.op("Reshape", walk.value(linear["x"]), walk.constant(np.array([1, -1, 1, weight.shape[1]], np.int64)))
    image = walk.op("Transpose", rows, perm=[0, 3, 1, 2])
    result = _convolution(walk, node, image, signed(walk, weight[:, :, None, None], str(linear["weight"].target)))
    return reshape(walk, walk.op("Transpose", result, perm=[0, 2, 3, 1]), walk.shape(node))


def _sum_pool2d(walk: Walk, node: fx.Node) -> ir.Value:
    pool = arguments(arguments(node)["x"])
    channels = walk.shape(node)[1]
    ones = walk.constant(np.ones((channels, 1, *pool["kernel"]), np.int8))
    return _convolution(walk, node, walk.value(pool["x"]), ones, strides=pool["stride"], pads=pool["padding"], group=channels)


def _rescaled(walk: Walk, operand: fx.Node, b: Any, c: int, axis: int = 0) -> ir.Value:
    """The operand times b / 2**c, exactly, in float32."""
    scale = _dyadic(b, c)
    point = np.full(scale.shape, zero_point(operand), np.uint8)
    attributes: dict[str, Any] = {"axis": axis} if scale.shape else {}
    return walk.op("DequantizeLinear", walk.value(operand), walk.constant(scale), walk.constant(point), **attributes)


def _rounded(walk: Walk, node: fx.Node, value: ir.Value, c: int) -> ir.Value:
    """Half to even, saturated to the storage type."""
    return walk.op("QuantizeLinear", value, walk.constant(np.float32(1)), walk.point(node), facts={"shift": c})


def _multiply(walk: Walk, node: fx.Node) -> ir.Value:
    named = arguments(node)
    product = arguments(named["x"])
    factors = _rescaled(walk, product["x"], 1, 0), _rescaled(walk, product["y"], walk.array(named["b"]), named["c"])
    return _rounded(walk, node, walk.op("Mul", *factors), named["c"])


def _matmul(walk: Walk, node: fx.Node) -> ir.Value:
    """QLinearMatMul of two computed tensors."""
    named = arguments(node)
    product = arguments(named["x"])
    x, y = product["x"], product["y"]
    right = signed_bytes(walk, walk.value(y)), walk.constant(_dyadic(walk.array(named["b"]), named["c"])), signed_point(walk, y)
    return _qlinear_product(walk, x, right, walk.point(node), named["c"])


def _qlinear_product(walk: Walk, x: fx.Node, right: tuple[ir.Value, ir.Value, ir.Value], point: ir.Value, c: int) -> ir.Value:
    """`right` is the second operand, the scale b / 2**c and the operand's zero point; `point` that of the result."""
    one = walk.constant(np.float32(1))
    return walk.op("QLinearMatMul", walk.value(x), one, walk.point(x), *right, one, point, facts={"shift": c})


def _scores(walk: Walk, node: fx.Node) -> ir.Value:
    """A bias is added to the int32 sums, which float32 then rescales: the proof above holds for them as they are."""
    named = arguments(node)
    scale, point = walk.constant(_dyadic(named["b"], named["c"])), walk.constant(np.uint8(128))
    if named["bias"] is None:
        right = keys(walk, named["k"]), scale, signed_point(walk, named["k"])
        return _qlinear_product(walk, named["q"], right, point, named["c"])
    value = walk.op("DequantizeLinear", accumulated(walk, node), scale)
    return walk.op("QuantizeLinear", value, walk.constant(np.float32(1)), point, facts={"shift": named["c"]})


def _mean(walk: Walk, node: fx.Node, mean: ir.Value) -> ir.Value:
    named = arguments(node)
    if STORAGE[named["dtype"]][0] != ir.DataType.UINT8:
        return rescaled(walk, node, mean)
    value = walk.op("DequantizeLinear", lowered(walk, mean), walk.constant(_dyadic(named["ob"], named["oc"])))
    return clipped(walk, _rounded(walk, node, value, named["oc"]), node, named["qmin"], named["qmax"])


_FUSED: dict[Any, Emit] = {
    _fxp.conv2d.default: _conv2d,
    _fxp.linear.default: _linear,
    _fxp.sum_pool2d.default: _sum_pool2d,
    _fxp.multiply.default: _multiply,
    _fxp.matmul.default: _matmul,
}


def _wide(walk: Walk, node: fx.Node) -> ir.Value:
    """clamp(rne(x * (b / 2**c))) in float64: every step but the rounding is exact."""
    named = arguments(node)
    x, rank = named["x"], node.meta["val"].dim()
    scale = np.ldexp(walk.array(named["b"]).astype(np.float64), -named["c"])
    if scale.size > 1:
        scale = scale.reshape([-1 if axis == named["axis"] % rank else 1 for axis in range(rank)])
    total = integer.with_bias(walk, x) if absorbed(x, walk.program) else centred(walk, x)
    value = walk.op("Mul", walk.op("Cast", total, to=ir.DataType.DOUBLE), walk.constant(scale))
    bounds = (walk.constant(np.float64(bound)) for bound in (named["qmin"], named["qmax"]))
    clamped = walk.op("Clip", walk.op("Round", value), *bounds)
    return walk.op("Cast", clamped, to=STORAGE[named["dtype"]][0], facts={"shift": named["c"]})


def requantize(walk: Walk, node: fx.Node) -> ir.Value:
    named = arguments(node)
    x = named["x"]
    per_channel = walk.array(named["b"]).size > 1
    if STORAGE[named["dtype"]][0] != ir.DataType.UINT8:
        return _wide(walk, node)
    short = torch.int16 in (operand.meta["val"].dtype for operand in (x, *x.all_input_nodes))
    if short or (x.target in (_fxp.multiply.default, _fxp.matmul.default) and per_channel):
        return integer.requantize(walk, node)
    if absorbed(x, walk.program):
        result = _FUSED[x.target](walk, node)
    elif x.meta["val"].dtype.itemsize == 1:
        axis = named["axis"] % x.meta["val"].dim()
        result = _rounded(walk, node, _rescaled(walk, x, walk.array(named["b"]), named["c"], axis), named["c"])
    else:
        return integer.requantize(walk, node)
    return clipped(walk, result, node, named["qmin"], named["qmax"])


def add(walk: Walk, node: fx.Node) -> ir.Value:
    """Add, or Sub of the operand whose multiplier is negative: a scale is positive."""
    named = arguments(node)
    operands = sorted(((named["x"], named["bx"]), (named["y"], named["by"])), key=lambda operand: operand[1] < 0)
    bytes_alone = all(dtype.itemsize == 1 for dtype in (named["dtype"], *(operand.meta["val"].dtype for operand, _ in operands)))
    if not bytes_alone or operands[0][1] < 0:
        return integer.add(walk, node)
    terms = (_rescaled(walk, operand, abs(b), named["c"]) for operand, b in operands)
    total = walk.op("Add" if operands[1][1] > 0 else "Sub", *terms)
    return clipped(walk, _rounded(walk, node, total, named["c"]), node, named["qmin"], named["qmax"])


F2 = Flavour(
    "F2",
    "QLinear operators with dyadic scales: the bits of F1, computed in part by float32 kernels",
    {
        **F1.emitters,
        _fxp.requantize.default: requantize,
        _fxp.add.default: add,
        _fxp.affine.default: affine_in_float64,
        _fxp.attention.default: lambda walk, node: attended(walk, node, _scores, _mean),
    },
    absorbed,
)
