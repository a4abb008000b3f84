"""F1: every value between the borders is an integer tensor; products by ConvInteger and MatMulInteger, rounding by shifts.

ConvInteger makes the weights the left operand of the product, where only u8 x u8 has a fast kernel on x86: weights are
stored as w + 128 with zero point 128 (4-bit ones as w + 8). MatMulInteger's fast kernel is u8 x s8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from fxpress_ir import Program
from fxpress_ir.ops import Interval, arguments
from torch import fx

from . import rounding
from .border import dequantize, quantize
from .movement import MOVEMENT_EMITTERS
from .narrow import signed, unsigned
from .rounding import Integers
from .shapes import SHAPE_EMITTERS, reshape
from .table import lut
from .walk import STORAGE, Emit, Flavour, Walk, zero_point

_fxp = torch.ops.fxp
_ZERO = np.zeros(1, np.int64)


def _convolution(walk: Walk, node: fx.Node) -> ir.Value:
    """sum x * w; padding adds x's zero point."""
    named = arguments(node)
    weight, point = unsigned(walk, walk.array(named["weight"]), str(named["weight"].target))
    x = named["x"]
    attributes = {"strides": named["stride"], "pads": named["padding"], "dilations": named["dilation"], "group": named["groups"]}
    return walk.op("ConvInteger", walk.value(x), weight, walk.point(x), point, **attributes)


def _product(walk: Walk, node: fx.Node) -> ir.Value:
    named = arguments(node)
    weight = signed(walk, np.ascontiguousarray(walk.array(named["weight"]).T), str(named["weight"].target))
    return walk.op("MatMulInteger", walk.value(named["x"]), weight, walk.point(named["x"]))


def _window_sum(walk: Walk, node: fx.Node) -> ir.Value:
    """Ones as weights; a window over the whole image is one product with a column of ones."""
    named = arguments(node)
    x, kernel = named["x"], list(named["kernel"])
    channels, *image = walk.shape(x)[1:]
    whole = all(isinstance(s, int) for s in image) and image == kernel  # comparing a symbolic size would fix it
    if whole and not any(named["padding"]):
        rows = walk.op("Reshape", walk.value(x), walk.constant(np.array([-1, kernel[0] * kernel[1]], np.int64)))
        sums = walk.op("MatMulInteger", rows, walk.constant(np.ones((kernel[0] * kernel[1], 1), np.int8)), walk.point(x))
        return reshape(walk, sums, walk.shape(node))
    ones = walk.constant(np.ones((channels, 1, *kernel), np.uint8))
    return walk.op("ConvInteger", walk.value(x), ones, walk.point(x), strides=named["stride"], pads=named["padding"], group=channels)


def _elementwise_product(walk: Walk, node: fx.Node) -> ir.Value:
    named = arguments(node)
    return walk.op("Mul", *(centred(walk, named[operand]) for operand in ("x", "y")))


def centred(walk: Walk, node: fx.Node) -> ir.Value:
    """The value itself as int32."""
    value, zero = _widened(walk, node), zero_point(node)
    return walk.op("Sub", value, walk.constant(np.int32(zero))) if zero else value


_ACCUMULATORS: dict[Any, tuple[Emit, int]] = {
    _fxp.conv2d.default: (_convolution, 1),
    _fxp.linear.default: (_product, -1),
    _fxp.sum_pool2d.default: (_window_sum, 1),
    _fxp.multiply.default: (_elementwise_product, 1),
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
        accumulator, bias, total, axis = _widened(walk, x), _ZERO - zero_point(x), walk.intervals[x].hull(), named["axis"]
    kind, zero = STORAGE[named["dtype"]]
    plan = rounding.plan(total, bias, b, c, qmin, qmax, zero)
    return rounding.emit(walk, accumulator, plan, axis, x.meta["val"].dim(), kind)


def _widened(walk: Walk, node: fx.Node) -> ir.Value:
    """The stored value as int32, zero point included."""
    value = walk.value(node)
    return value if node.meta["val"].dtype == torch.int32 else walk.op("Cast", value, to=ir.DataType.INT32)


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
        terms.append(walk.op("Mul", _widened(walk, operand), walk.constant(np.int32(b))))
    kind, zero = STORAGE[named["dtype"]]
    one = np.ones(1, np.int64)
    plan = rounding.plan(Interval.of(low, high), one * offset, one, named["c"], named["qmin"], named["qmax"], zero)
    return rounding.emit(walk, walk.op("Add", *terms), plan, 0, node.meta["val"].dim(), kind)


def max_pool2d(walk: Walk, node: fx.Node) -> ir.Value:
    """MaxPool, which pads with the smallest u8; that is the smallest value in either storage."""
    named = arguments(node)
    window = {"kernel_shape": named["kernel"], "strides": named["stride"], "pads": named["padding"], "dilations": named["dilation"]}
    return walk.op("MaxPool", walk.value(named["x"]), **window)


F1 = Flavour(
    "F1",
    "integer tensors only between the borders, checked on the graph that ONNX Runtime optimised",
    {
        **SHAPE_EMITTERS,
        **MOVEMENT_EMITTERS,
        _fxp.quantize.default: quantize,
        _fxp.dequantize.default: dequantize,
        _fxp.conv2d.default: with_bias,
        _fxp.linear.default: with_bias,
        _fxp.sum_pool2d.default: with_bias,
        _fxp.multiply.default: with_bias,
        _fxp.lut.default: lut,
        _fxp.requantize.default: requantize,
        _fxp.add.default: add,
        _fxp.max_pool2d.default: max_pool2d,
    },
    absorbed,
)
