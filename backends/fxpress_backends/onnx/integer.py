"""F1: every value between the borders is an integer tensor; products by ConvInteger and MatMulInteger, rounding by shifts.

A 16-bit operand is two of 8 bits, x = 256 * (high - 128) + low, whose sums are added.

ConvInteger makes the weights the left operand of the product, where only u8 x u8 has a fast kernel on x86: weights are
stored as w + 128 with zero point 128 (4-bit ones as w + 8). MatMulInteger's fast kernel is u8 x s8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from fxpress_ir import Program
from fxpress_ir.ops import Interval, arguments
from torch import fx

from . import rounding
from .attention import attention
from .border import dequantize, quantize
from .logic import LOGIC_EMITTERS
from .movement import MOVEMENT_EMITTERS, max_of_slices
from .narrow import signed, unsigned
from .normalize import affine, normalize
from .positions import positions
from .product import matmul
from .rotary import rotary
from .rounding import Integers
from .shapes import SHAPE_EMITTERS, reshape
from .softmax import softmax
from .table import lut, lut16
from .walk import STORAGE, Emit, Flavour, Walk, centred, widened, zero_point

_fxp = torch.ops.fxp
_ZERO = np.zeros(1, np.int64)


def _convolution(walk: Walk, node: fx.Node) -> ir.Value:
    """sum x * w; padding adds x's zero point."""
    named = arguments(node)
    weight, point = unsigned(walk, walk.array(named["weight"]), str(named["weight"].target))
    attributes = {"strides": named["stride"], "pads": named["padding"], "dilations": named["dilation"], "group": named["groups"]}
    return _by_bytes(walk, named["x"], lambda x, zero: walk.op("ConvInteger", x, weight, zero, point, **attributes))


def _product(walk: Walk, node: fx.Node) -> ir.Value:
    named = arguments(node)
    weight = signed(walk, np.ascontiguousarray(walk.array(named["weight"]).T), str(named["weight"].target))
    return _by_bytes(walk, named["x"], lambda x, zero: walk.op("MatMulInteger", x, weight, zero))


def _by_bytes(walk: Walk, x: fx.Node, product: Callable[[ir.Value, ir.Value], ir.Value]) -> ir.Value:
    """`product` of the stored bytes and their zero point, which is linear in them."""
    value = walk.value(x)
    if x.meta["val"].dtype != torch.int16:
        return product(value, walk.point(x))
    codes = walk.op("Cast", walk.op("Add", value, walk.constant(np.int32(1 << 15))), to=ir.DataType.UINT32)
    high = walk.op("Cast", walk.op("BitShift", codes, walk.constant(np.uint32(8)), direction="RIGHT"), to=ir.DataType.UINT8)
    low = walk.op("Cast", codes, to=ir.DataType.UINT8)
    upper = walk.op("Mul", product(high, walk.constant(np.uint8(128))), walk.constant(np.int32(256)))
    return walk.op("Add", upper, product(low, walk.constant(np.uint8(0))))


def _window_sum(walk: Walk, node: fx.Node) -> ir.Value:
    """Ones as weights; a window over the whole image is one product with a column of ones."""
    named = arguments(node)
    x, kernel = named["x"], list(named["kernel"])
    channels, *image = walk.shape(x)[1:]
    whole = all(isinstance(s, int) for s in image) and image == kernel  # comparing a symbolic size would fix it
    if whole and not any(named["padding"]):
        flat = walk.constant(np.array([-1, kernel[0] * kernel[1]], np.int64))
        column = walk.constant(np.ones((kernel[0] * kernel[1], 1), np.int8))
        sums = _by_bytes(walk, x, lambda value, zero: walk.op("MatMulInteger", walk.op("Reshape", value, flat), column, zero))
        return reshape(walk, sums, walk.shape(node))
    ones, attributes = walk.constant(np.ones((channels, 1, *kernel), np.uint8)), {"strides": named["stride"], "pads": named["padding"]}
    return _by_bytes(walk, x, lambda value, zero: walk.op("ConvInteger", value, ones, zero, group=channels, **attributes))


def _elementwise_product(walk: Walk, node: fx.Node) -> ir.Value:
    named = arguments(node)
    return walk.op("Mul", *(centred(walk, named[operand]) for operand in ("x", "y")))


_ACCUMULATORS: dict[Any, tuple[Emit, int]] = {
    _fxp.conv2d.default: (_convolution, 1),
    _fxp.linear.default: (_product, -1),
    _fxp.sum_pool2d.default: (_window_sum, 1),
    _fxp.multiply.default: (_elementwise_product, 1),
    _fxp.matmul.default: (matmul, -1),
}
"""The operators whose result is a 32-bit sum or product, without their bias, and the axis of their channels."""


def bias_of(walk: Walk, node: fx.Node) -> Integers:
    """The bias of an accumulating node, shape [channels] or [1]."""
    bias = arguments(node).get("bias")
    return _ZERO if bias is None else walk.array(bias).astype(np.int64)


def with_bias(walk: Walk, node: fx.Node) -> ir.Value:
    """The 32-bit sum or product of an accumulating node."""
    emit, axis = _ACCUMULATORS[node.target]
    value, bias = emit(walk, node), bias_of(walk, node)
    if not bias.any():
        return value
    return walk.op("Add", value, walk.constant(bias.astype(np.int32).reshape([-1, 1, 1] if axis == 1 else [-1])))


def absorbed(node: fx.Node, program: Program) -> bool:
    """A sum whose only user requantises it, channel by channel or with one multiplier: the bias moves into the rounding."""
    if node.target not in _ACCUMULATORS or len(node.users) != 1:
        return False
    (user,) = node.users
    if user.target is not _fxp.requantize.default:
        return False
    named, rank = arguments(user), node.meta["val"].dim()
    b = program.tensors[str(named["b"].target)]
    return b.numel() == 1 or named["axis"] % rank == _ACCUMULATORS[node.target][1] % rank


def requantize(walk: Walk, node: fx.Node) -> ir.Value:
    named = arguments(node)
    x, c, qmin, qmax = named["x"], named["c"], named["qmin"], named["qmax"]
    b = walk.array(named["b"]).astype(np.int64)
    if absorbed(x, walk.program):
        accumulator, bias, total = _ACCUMULATORS[x.target][0](walk, x), bias_of(walk, x), walk.intervals[x]
        axis = _ACCUMULATORS[x.target][1]
        if not rounding.folds(bias, b, c, qmin, qmax):
            accumulator, bias = with_bias(walk, x), _ZERO
    else:
        accumulator, bias, total, axis = widened(walk, x), _ZERO - zero_point(x), walk.intervals[x].hull(), named["axis"]
    kind, zero = STORAGE[named["dtype"]]
    plan = rounding.plan(total, bias, b, c, qmin, qmax, zero)
    return rounding.emit(walk, accumulator, plan, axis, x.meta["val"].dim(), kind)


def add(walk: Walk, node: fx.Node) -> ir.Value:
    """x * bx + y * by, rounded once; multipliers may be negative."""
    named = arguments(node)
    low = high = 0
    offset, terms = 0, []
    for operand, b in ((named["x"], named["bx"]), (named["y"], named["by"])):
        interval = walk.intervals[operand].hull()
        ends = sorted((int(interval.low) * b, int(interval.high) * b))
        low, high = low + ends[0], high + ends[1]
        offset -= zero_point(operand) * b
        terms.append(walk.op("Mul", widened(walk, operand), walk.constant(np.int32(b))))
    kind, zero = STORAGE[named["dtype"]]
    one = np.ones(1, np.int64)
    plan = rounding.plan(Interval.of(low, high), one * offset, one, named["c"], named["qmin"], named["qmax"], zero)
    return rounding.emit(walk, walk.op("Add", *terms), plan, 0, node.meta["val"].dim(), kind)


def max_pool2d(walk: Walk, node: fx.Node) -> ir.Value:
    """MaxPool, which pads with the smallest u8; that is the smallest value in either storage."""
    named = arguments(node)
    if node.meta["val"].dtype == torch.int16:
        return max_of_slices(walk, node)
    window = {"kernel_shape": named["kernel"], "strides": named["stride"], "pads": named["padding"], "dilations": named["dilation"]}
    return walk.op("MaxPool", walk.value(named["x"]), **window)


F1 = Flavour(
    "F1",
    "integer tensors only between the borders, checked on the graph that ONNX Runtime optimised",
    {
        **SHAPE_EMITTERS,
        **MOVEMENT_EMITTERS,
        **LOGIC_EMITTERS,
        _fxp.quantize.default: quantize,
        _fxp.dequantize.default: dequantize,
        _fxp.conv2d.default: with_bias,
        _fxp.linear.default: with_bias,
        _fxp.sum_pool2d.default: with_bias,
        _fxp.multiply.default: with_bias,
        _fxp.lut.default: lut,
        _fxp.lut16.default: lut16,
        _fxp.requantize.default: requantize,
        _fxp.add.default: add,
        _fxp.max_pool2d.default: max_pool2d,
        _fxp.normalize.default: normalize,
        _fxp.affine.default: affine,
        _fxp.rotary.default: rotary,
        _fxp.matmul.default: with_bias,
        _fxp.softmax.default: softmax,
        _fxp.positions.default: positions,
        _fxp.attention.default: attention,
    },
    absorbed,
)
