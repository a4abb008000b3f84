"""comparison with a number ==> Equal, Less ... of int32 or int64; and, or, not ==> And, Or, Not."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from fxpress_ir.ops import arguments
from torch import fx

from .walk import Emit, Walk, centred

_aten = torch.ops.aten


def _compared(walk: Walk, node: fx.Node, *, op_type: str) -> ir.Value:
    """ONNX Runtime compares 32 and 64 bits alone."""
    named = arguments(node)
    x = named["self"]
    if x.meta["val"].dtype == torch.int64:
        return walk.op(op_type, walk.value(x), walk.constant(np.int64(named["other"])))
    return walk.op(op_type, centred(walk, x), walk.constant(np.int32(named["other"])))


def _differs(walk: Walk, node: fx.Node) -> ir.Value:
    return walk.op("Not", _compared(walk, node, op_type="Equal"))


def _joined(walk: Walk, node: fx.Node, *, op_type: str) -> ir.Value:
    named = arguments(node)
    return walk.op(op_type, *(walk.value(named[operand]) for operand in ("self", "other")))


def _negated(walk: Walk, node: fx.Node) -> ir.Value:
    return walk.op("Not", walk.value(arguments(node)["self"]))


LOGIC_EMITTERS: dict[Any, Emit] = {
    _aten.eq.Scalar: partial(_compared, op_type="Equal"),
    _aten.ne.Scalar: _differs,
    _aten.lt.Scalar: partial(_compared, op_type="Less"),
    _aten.le.Scalar: partial(_compared, op_type="LessOrEqual"),
    _aten.gt.Scalar: partial(_compared, op_type="Greater"),
    _aten.ge.Scalar: partial(_compared, op_type="GreaterOrEqual"),
    _aten.logical_and.default: partial(_joined, op_type="And"),
    _aten.logical_or.default: partial(_joined, op_type="Or"),
    _aten.logical_not.default: _negated,
}
