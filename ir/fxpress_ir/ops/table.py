"""y = table[q]: any unary function of an 8-bit value, one table for the tensor or one a channel."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from .library import Fact, Interval, Intervals, Proof, Tensors, arguments, constant, define


def _lut(x: Tensor, table: Tensor, axis: int) -> Tensor:
    index = x.long() + (128 if x.dtype == torch.int8 else 0)
    if table.shape[0] == 1:
        return table[0].to(x.device)[index]
    rows = torch.arange(table.shape[0], device=x.device).reshape([-1 if d == axis % x.dim() else 1 for d in range(x.dim())])
    return table.to(x.device)[rows, index]


def _prove_lut(node: fx.Node, intervals: Intervals, tensors: Tensors) -> Proof:
    named = arguments(node)
    table, x = constant(named["table"], tensors), intervals[named["x"]].hull()
    offset = 128 if named["x"].meta["val"].dtype == torch.int8 else 0
    index = Fact(node.name, "table index", int(x.low) + offset, int(x.high) + offset, 0, table.shape[1] - 1)
    reached = table[:, max(int(x.low) + offset, 0) : int(x.high) + offset + 1]
    return Proof(Interval.of(int(reached.min()), int(reached.max())), (index,))


lut = define(
    "lut(Tensor x, Tensor table, int axis) -> Tensor",
    _lut,
    lambda x, table, axis: torch.empty_like(x, dtype=table.dtype),
    _prove_lut,
)
