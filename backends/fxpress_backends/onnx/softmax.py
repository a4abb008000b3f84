"""E = table[max - x], 1 / sum E = R / 2**(16 + n), p = (E * R + 2**(sh - 1)) >> sh: on unsigned integers, whose shifts ONNX has."""

from __future__ import annotations

from math import gcd, prod

import numpy as np
import onnx_ir as ir
from fxpress_ir.ops import RECIPROCAL_TABLE, arguments
from numpy.typing import NDArray
from torch import fx

from .table import MOST_ROWS
from .walk import STORAGE, Walk

_WORD = 32


def exponentials(walk: Walk, node: fx.Node, scores: ir.Value, static: int) -> ir.Value:
    """The table's entry for the distance of each score (u8, 128 added) from its row's largest.

    Args:
        node: its ``table`` is [256].
        static: a number that divides how many scores there are.
    """
    named = arguments(node)
    largest = walk.op("ReduceMax", scores, walk.constant(np.array([-1], np.int64)), keepdims=1)
    index = walk.op("Cast", walk.op("Sub", largest, scores), to=ir.DataType.INT32)
    table, rows = _stored(walk.array(named["table"])), gcd(static, MOST_ROWS)
    flat = walk.op("Reshape", index, walk.constant(np.array([rows, -1], np.int64)))
    copies = walk.constant(np.repeat(table.reshape(1, -1), rows, 0), str(named["table"].target))
    return walk.op("Reshape", walk.op("GatherElements", copies, flat, axis=1), walk.op("Shape", scores))


def _stored(table: NDArray[np.generic]) -> NDArray[np.generic]:
    return table if table.dtype == np.uint8 else table.astype(np.uint32)


def static_elements(walk: Walk, node: fx.Node) -> int:
    """The product of the sizes that are numbers."""
    return prod(size for size in walk.shape(node) if isinstance(size, int))


def reciprocal(walk: Walk, total: ir.Value, most: int) -> tuple[ir.Value, ir.Value]:
    """R and n, u32 of shape [..., 1] as `total`, which lies in [0, most] and of which 0 counts as 1.

    Its Newton step has signed terms: 2**31 - mh * R0 gets 2**23, the last product 2**31, and the shifted terms lose them again.
    """

    def number(value: int) -> ir.Value:
        return walk.constant(np.uint32(value))

    def right(value: ir.Value, bits: int) -> ir.Value:
        return walk.op("BitShift", value, number(bits), direction="RIGHT")

    powers = np.array([1 << bit for bit in range(1, max(most, 2).bit_length())], np.uint32)
    reached = walk.op("Cast", walk.op("GreaterOrEqual", total, walk.constant(powers)), to=ir.DataType.UINT8)
    count = walk.op("MatMulInteger", reached, walk.constant(np.ones((len(powers), 1), np.int8)))
    n = walk.op("Cast", count, to=ir.DataType.UINT32)
    mantissa = walk.op("BitShift", walk.op("Max", total, number(1)), walk.op("Sub", number(_WORD - 2), n), direction="LEFT")
    index = walk.op("Cast", walk.op("Sub", right(mantissa, 22), number(256)), to=ir.DataType.INT32)
    start = walk.op("Gather", walk.constant(np.array(RECIPROCAL_TABLE, np.uint32)), index)
    product = walk.op("Mul", right(walk.op("Add", mantissa, number(1 << 14)), 15), start)
    rest = walk.op("Sub", right(walk.op("Sub", number((1 << 31) + (1 << 23)), product), 8), number(1 << 15))
    step = right(walk.op("Add", walk.op("Mul", start, rest), number((1 << 31) + (1 << 22))), 23)
    return walk.op("Sub", walk.op("Add", start, step), number(256)), n


def softmax(walk: Walk, node: fx.Node) -> ir.Value:
    """The sum is a product with a column of ones, as long as a row is: ReduceSum would pass through double."""
    named = arguments(node)
    scores, bits = walk.value(named["x"]), named["bits"]
    found = exponentials(walk, node, scores, static_elements(walk, node))
    column = walk.op("Concat", walk.op("Shape", scores, start=-1), walk.constant(np.array([1], np.int64)), axis=0)
    ones = walk.op("Expand", walk.constant(np.uint32(1)), column)
    factor, n = reciprocal(walk, walk.op("MatMul", found, ones), (1 << 31) - 1)
    shift = walk.op("Min", walk.op("Add", n, walk.constant(np.uint32(16 - bits))), walk.constant(np.uint32(31)))
    one = walk.constant(np.uint32(1))
    half = walk.op("BitShift", one, walk.op("Sub", shift, one), direction="LEFT")
    shares = walk.op("BitShift", walk.op("Add", walk.op("Mul", found, factor), half), shift, direction="RIGHT")
    most = np.iinfo(np.uint8 if bits == 8 else np.int16).max
    return walk.op("Cast", walk.op("Min", shares, walk.constant(np.uint32(most))), to=STORAGE[node.meta["val"].dtype][0])
