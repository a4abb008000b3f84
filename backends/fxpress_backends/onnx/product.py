"""acc = x @ y of two computed 8-bit tensors ==> one MatMulInteger of u8 by s8, the pair of types that x86 multiplies fastest."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from fxpress_ir.ops import arguments
from torch import fx

from .walk import Walk, zero_point

_SIGN = np.uint8(128)


def signed_bytes(walk: Walk, value: ir.Value) -> ir.Value:
    """Stored u8 as s8 less 128: 128 more wraps to the other sign. Add is ten times faster than BitwiseXor (5 us for 150,000 bytes)."""
    return walk.op("Cast", walk.op("Add", value, walk.constant(_SIGN)), to=ir.DataType.INT8)


def signed_point(walk: Walk, node: fx.Node) -> ir.Value:
    """What `signed_bytes` of a node's value hold for 0: nothing is added to s8, -128 to u8."""
    return walk.constant(np.int8(zero_point(node) - 128))


def matmul(walk: Walk, node: fx.Node) -> ir.Value:
    """The int32 sums."""
    named = arguments(node)
    x, y = named["x"], named["y"]
    return walk.op("MatMulInteger", walk.value(x), signed_bytes(walk, walk.value(y)), walk.point(x), signed_point(walk, y))
