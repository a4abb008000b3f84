"""acc = x @ y in int32: a product of two computed 8-bit matrices for each index of the leading dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from ..analysis.sizes import largest
from .library import Fact, Interval, Intervals, Proof, Tensors, arguments, check, define

_MOST_TERMS = 1 << 17
"""More products of two bytes leave 32 bits, of whatever sign they are."""


def _matmul(x: Tensor, y: Tensor) -> Tensor:
    """Through float64: exact in any order because the verifier bounds every partial sum below 2**31 < 2**53."""
    return torch.matmul(x.double(), y.double()).to(torch.int32)


def _fake_matmul(x: Tensor, y: Tensor) -> Tensor:
    check(x.dim() == y.dim() >= 2, lambda: f"ranks {x.dim()} and {y.dim()}, expected equal ones from 2 on")
    check(x.shape[-1] == y.shape[-2], lambda: f"rows of {x.shape[-1]} values meet columns of {y.shape[-2]}")
    lead = [_joint(*sizes) for sizes in zip(x.shape[:-2], y.shape[:-2], strict=True)]
    return x.new_empty([*lead, x.shape[-2], y.shape[-1]], dtype=torch.int32)


def _joint(x: Any, y: Any) -> Any:
    """The size of a leading dimension: a fixed 1 goes into any other size."""
    if isinstance(x, int) and x == 1:
        return y
    check((isinstance(y, int) and y == 1) or x == y, lambda: f"leading dimensions of {x} and {y}, expected equal ones or 1")
    return x


def counted(node: fx.Node, what: str, size: Any, most: int) -> Fact:
    """There are at most `most` of `what`, an int or a SymInt; a dimension without a maximum breaks it."""
    found = largest(size)
    advice = " (declare the dimension with Dim(max=N))" if found >= 1 << 31 else ""
    return Fact(node.name, f"number of {what}{advice}", size if isinstance(size, int) else 0, found, 0, most)


def _prove_matmul(node: fx.Node, intervals: Intervals, tensors: Tensors) -> Proof:
    """As many products as x has columns; the fact covers every partial sum in every order."""
    named = arguments(node)
    x, y = intervals[named["x"]].hull(), intervals[named["y"]].hull()
    terms = counted(node, "products in a sum", named["x"].meta["val"].shape[-1], _MOST_TERMS)
    if not terms.holds:
        return Proof(Interval.of(-(1 << 31), (1 << 31) - 1), (terms,))
    corners = [int(a) * int(b) for a in (x.low, x.high) for b in (y.low, y.high)]
    sums = [count * corner for count in (terms.low, terms.high) for corner in corners]
    worst = np.asarray(terms.high * int(x.magnitude) * int(y.magnitude), np.int64)
    return Proof(Interval.of(min(sums), max(sums)), (terms, Fact.fits(node.name, "accumulator (any order)", -worst, worst, 32)))


matmul = define("matmul(Tensor x, Tensor y) -> Tensor", _matmul, _fake_matmul, _prove_matmul)
