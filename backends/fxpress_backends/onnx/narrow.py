"""A weight whose values fit 4 or 2 bits is stored in them and cast when the file is loaded, where ONNX Runtime folds the cast.

ONNX has no other types below 8 bits: 3 bits take 4; 5, 6 and 7 take 8.

Pairs of products of u8 by such weights stay below 2**15: on processors whose 16-bit sums saturate they are exact as they are.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .walk import Walk

_WORTH = 1024
"""Elements from which on a weight is packed: the cast node and its names take a hundred bytes or two."""

TWO_BITS = (ir.DataType.INT2, ir.DataType.UINT2)
_SIGNED: dict[int, Any] = {4: ml_dtypes.int4, 2: ml_dtypes.int2}
_UNSIGNED: dict[int, Any] = {4: ml_dtypes.uint4, 2: ml_dtypes.uint2}


def width(weight: NDArray[np.int8], least: int = 2) -> int:
    """The bits of one stored element: 2, 4 or 8; not less than `least`."""
    if weight.size < _WORTH:
        return 8
    low, high = int(weight.min()), int(weight.max())
    return next((bits for bits in (2, 4) if bits >= least and -(1 << (bits - 1)) <= low and high < 1 << (bits - 1)), 8)


def record(model: ir.Model) -> dict[str, dict[str, int]]:
    """What is stored so: bits of an element, bytes of the initialiser and those that it would take at 8 bits."""
    narrow = {value.name: value.const_value for value in model.graph.initializers.values()}
    kinds = {**dict.fromkeys((ir.DataType.INT4, ir.DataType.UINT4), 4), **dict.fromkeys(TWO_BITS, 2)}
    return {
        str(name): {"bits": kinds[tensor.dtype], "bytes": -(-tensor.size * kinds[tensor.dtype] // 8), "dense_bytes": tensor.size}
        for name, tensor in sorted(narrow.items(), key=lambda item: str(item[0]))
        if tensor is not None and tensor.dtype in kinds
    }


def _least(walk: Walk) -> int:
    """Float islands are exported at an opset that has no 2-bit types."""
    return 4 if walk.program.islands else 2


def signed(walk: Walk, weight: NDArray[np.int8], name: str) -> ir.Value:
    """The weight as s8 with zero point 0."""
    bits = width(weight, _least(walk))
    if bits == 8:
        return walk.constant(weight, name)
    return walk.op("Cast", walk.constant(weight.astype(_SIGNED[bits]), name), to=ir.DataType.INT8)


def unsigned(walk: Walk, weight: NDArray[np.int8], name: str) -> tuple[ir.Value, ir.Value]:
    """The weight as u8 = w + zero point, and the zero point."""
    bits = width(weight, _least(walk))
    zero = 1 << (bits - 1)
    shifted = (weight.astype(np.int16) + zero).astype(np.uint8)
    point = walk.constant(np.uint8(zero))
    if bits == 8:
        return walk.constant(shifted, name), point
    return walk.op("Cast", walk.constant(shifted.astype(_UNSIGNED[bits]), name), to=ir.DataType.UINT8), point
