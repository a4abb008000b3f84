"""acc = x * y in int32, either operand broadcast."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, fx

from .library import Fact, Interval, Intervals, Proof, Tensors, arguments, define


def _multiply(x: Tensor, y: Tensor) -> Tensor:
    return x.to(torch.int32) * y.to(torch.int32)


def _prove_multiply(node: fx.Node, intervals: Intervals, tensors: Tensors) -> Proof:
    named = arguments(node)
    x, y = intervals[named["x"]].hull(), intervals[named["y"]].hull()
    corners = np.array([int(a) * int(b) for a in (x.low, x.high) for b in (y.low, y.high)], np.int64)
    interval = Interval.of(int(corners.min()), int(corners.max()))
    return Proof(interval, (Fact.fits(node.name, "product", interval.low, interval.high, 32),))


multiply = define("multiply(Tensor x, Tensor y) -> Tensor", _multiply, _multiply, _prove_multiply)
