"""The integer operators: one table, read by the verifier, the NumPy reference, ONNX and TVM."""

from __future__ import annotations

from typing import Any

import torch

from . import attention, border, linear, matmul, move, normalize, pool, positions, product, requantize, rotary, softmax, table
from .attention import KEPT_BITS, LEAST_SCORE, UNSEEN_ROWS, prove_mean, prove_scores
from .border import quantize_channels
from .library import Fact, Interval, Operator, Proof, arguments, constant
from .reciprocal import RECIPROCAL_TABLE
from .rsqrt import RSQRT_TABLE
from .table import CHORD_BITS, KNOTS

OPERATORS: dict[Any, Operator] = {
    row.overload: row
    for row in (
        border.quantize,
        border.dequantize,
        border.fake_quantize,
        border.fake_quantize_channels,
        linear.conv2d,
        linear.linear,
        requantize.requantize,
        requantize.add,
        pool.max_pool2d,
        pool.sum_pool2d,
        product.multiply,
        table.lut,
        table.lut16,
        move.concat,
        move.pad2d,
        move.select2d,
        move.insert_zeros,
        normalize.normalize,
        normalize.affine,
        rotary.rotary,
        matmul.matmul,
        softmax.softmax,
        attention.attention,
        positions.positions,
    )
}
"""Every operator of the ``fxp`` namespace, by its overload."""

INTEGER_OPERATORS = {overload: row for overload, row in OPERATORS.items() if row.prove is not None}
"""The operators that an integer program may hold, borders included."""

_aten = torch.ops.aten
SHAPE_OPERATORS = frozenset(
    {
        _aten.flatten.using_ints,
        _aten.view.default,
        _aten.reshape.default,
        _aten.permute.default,
        _aten.transpose.int,
        _aten.unsqueeze.default,
        _aten.squeeze.dim,
        _aten.squeeze.dims,
        _aten.slice.Tensor,
        _aten.select.int,
        _aten.expand.default,
        _aten.contiguous.default,
        _aten.clone.default,
    }
)
"""ATen operators that move values without changing them; every stage may hold them."""

LOOKUP_OPERATORS = frozenset({_aten.embedding.default})
"""ATen operators that take rows of a table, their first operand, by number; an integer stage may hold them over integer constants.

A number outside the table is an error of the runtime's choosing: it raises, or it takes some row of the table.
"""

COMPARISONS = frozenset({comparison.Scalar for comparison in (_aten.eq, _aten.ne, _aten.lt, _aten.le, _aten.gt, _aten.ge)})
"""ATen operators that compare each element with a number; an integer stage may compare integers with integers."""

LOGIC_OPERATORS = COMPARISONS | {_aten.logical_and.default, _aten.logical_or.default, _aten.logical_not.default}
"""ATen operators that make booleans: the comparisons, and those on booleans; an integer stage computes masks with them."""

SIZE_OPERATORS = frozenset({_aten.sym_size.int})
"""Operators that give a dimension's size; their results are arguments of shape operators."""

__all__ = [
    "CHORD_BITS",
    "COMPARISONS",
    "INTEGER_OPERATORS",
    "OPERATORS",
    "SHAPE_OPERATORS",
    "SIZE_OPERATORS",
    "UNSEEN_ROWS",
    "Fact",
    "Interval",
    "KNOTS",
    "LEAST_SCORE",
    "LOGIC_OPERATORS",
    "LOOKUP_OPERATORS",
    "KEPT_BITS",
    "Operator",
    "Proof",
    "RECIPROCAL_TABLE",
    "RSQRT_TABLE",
    "arguments",
    "constant",
    "prove_mean",
    "prove_scores",
    "quantize_channels",
]
