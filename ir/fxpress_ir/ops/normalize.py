"""u = 2**10 * (x - mean) / sqrt(variance + epsilon) along the last dimension, then y = clamp(rne((u * g + b) / 2**c)).

The moments are exact and the mean is never rounded: with S1 = sum x and S2 = sum x**2 over N values, V = N * S2 - S1**2 is
N**2 times the variance and d = N * x - S1 is N times the deviation, so that d / sqrt(V) is the normalised value. V and its
reciprocal square root are 64-bit integers, one a row; all else fits 32 bits. Without centring S1 counts as 0 (RMSNorm).

With y = 2**10 * d / sqrt(V), the error of u is below ``1.501 + 4.7e-5 * |y|`` in units of 2**-10: the rounding of d' counts
1, that of u 1/2, those of R and R' (relative; see `rsqrt`) 1.56e-5 and 2**-15. |y| <= 2**10 * sqrt(N - 1) for centred values
(Samuelson's inequality), else 2**10 * sqrt(N): the bound is .0017 for |u| up to 4, and .0046 where one of 4096 values is all
that differs. Largest errors found for N = 192, 768, 4096, 8 and 16 bits: .0015 for normal rows, .0018 with channels 30 times
as large, .0017, .0020 and .0033 with a single value that differs.
"""

from __future__ import annotations

from math import isqrt

import numpy as np
import torch
from torch import Tensor, fx

from .library import Fact, Interval, Intervals, Proof, Tensors, arguments, check, check_channels, constant, define
from .rsqrt import RSQRT_LIMIT, rsqrt

NORMAL_BITS = 10
"""Normalised values count 2**-10."""

LONGEST_ROW = 4096
"""Up to here the product of a 16-bit row's normalised deviation and reciprocal root fits 32 bits."""

_MOST_SHIFT = 24


def _normalize(x: Tensor, epsilon: int, centre: bool) -> Tensor:
    count, wide = x.shape[-1], x.long()
    total = wide.sum(-1, keepdim=True) * int(centre)
    root, half_log = rsqrt(count * (wide * wide).sum(-1, keepdim=True) - total * total + epsilon)
    right, left = (half_log - 9).clamp(min=0), (9 - half_log).clamp(min=0)
    deviation = ((count * wide - total << left) + (1 << right >> 1)) >> right
    return (deviation * (root + 1 >> 1) + (1 << 13) >> 14).to(torch.int32)


def _fake_normalize(x: Tensor, epsilon: int, centre: bool) -> Tensor:
    check(x.dim() >= 1 and isinstance(x.shape[-1], int), lambda: f"x has shape {list(x.shape)}, expected a fixed last dimension")
    check(2 <= x.shape[-1] <= LONGEST_ROW, lambda: f"rows of {x.shape[-1]} values, expected 2 to {LONGEST_ROW}")
    return torch.empty_like(x, dtype=torch.int32)


def _prove_normalize(node: fx.Node, intervals: Intervals, tensors: Tensors) -> Proof:
    """Cauchy-Schwarz gives V >= epsilon, Popoviciu's inequality its upper bound, Samuelson's the result's.

    Where y bounds 2**10 * |d| / sqrt(V): sqrt(V) < 2**(h + 1), so |d * 2**(9 - h)| < y and |d'| <= y + 1/2; R' <= (R + 1) / 2
    <= 2**15; and |d' * R'| / 2**14 <= y * (1 + 1.6e-5 + 2**-15) + 1 + 2**-16 < y + y / 2**14 + 1 + 2**-16.
    """
    named = arguments(node)
    count, x = int(named["x"].meta["val"].shape[-1]), intervals[named["x"]].hull()
    low, high, epsilon, centre = int(x.low), int(x.high), named["epsilon"], named["centre"]
    largest = max(-low, high)
    squares = count * count * largest**2
    moment = (count * (high - low)) ** 2 // 4 if centre else squares
    deviation = (count - 1) * (high - low) if centre else count * largest
    bound = isqrt((count - centre) << (2 * NORMAL_BITS)) + 1
    bound += (bound >> 14) + 2
    halves = 1 << 20  # the rounding term of d' for the largest h, 30

    def within(what: str, most: int, width: int) -> Fact:
        return Fact(node.name, what, -most, most, -(1 << (width - 1)), (1 << (width - 1)) - 1)

    facts = (
        within("sum and multiple of a value", count * largest, 32),
        within("multiple of the sum of squares", squares, 64),
        Fact(node.name, "moment and epsilon", epsilon, moment + epsilon, 1, RSQRT_LIMIT - 1),
        within("deviation and rounding term", deviation + halves, 32),
        within("product and rounding term", (bound << 14) + (1 << 13), 32),
    )
    return Proof(Interval.of(-bound, bound), facts)


def _affine(u: Tensor, g: Tensor, b: Tensor, c: int, qmin: int, qmax: int, axis: int, dtype: torch.dtype) -> Tensor:
    shape = [-1 if d == axis % u.dim() else 1 for d in range(u.dim())]
    gain, offset = (values.to(device=u.device, dtype=torch.int32).reshape(shape) for values in (g, b))
    product = u.to(torch.int32) * gain + offset
    return ((product + ((1 << (c - 1)) - 1) + ((product >> c) & 1)) >> c).clamp_(qmin, qmax).to(dtype)


def _fake_affine(u: Tensor, g: Tensor, b: Tensor, c: int, qmin: int, qmax: int, axis: int, dtype: torch.dtype) -> Tensor:
    check(-u.dim() <= axis < u.dim(), lambda: f"axis {axis} of {u.dim()} dimensions")
    for name, values in (("g", g), ("b", b)):
        check_channels(name, values, u.shape[axis])
    return torch.empty_like(u, dtype=dtype)


def _prove_affine(node: fx.Node, intervals: Intervals, tensors: Tensors) -> Proof:
    named = arguments(node)
    g, b, c, qmin, qmax = constant(named["g"], tensors), constant(named["b"], tensors), named["c"], named["qmin"], named["qmax"]
    u, rank, limits = intervals[named["u"]], named["u"].meta["val"].dim(), torch.iinfo(named["dtype"])
    if u.axis is not None and (u.axis - named["axis"]) % rank:
        u = u.hull()  # the gains run along another axis than the bounds
    facts = (
        Fact(node.name, "gain", int(g.min()), int(g.max()), 1 - (1 << 15), (1 << 15) - 1),
        Fact(node.name, "shift", c, c, 1, _MOST_SHIFT),
        Fact(node.name, "result", qmin, qmax, limits.min, limits.max),
    )
    if not all(fact.holds for fact in facts):
        return Proof(Interval.of(qmin, qmax), facts)
    worst = int((u.magnitude * np.abs(g) + np.abs(b)).max()) + (1 << c)
    size = Fact(node.name, "product, offset and rounding term", -worst, worst, 1 - (1 << 31), (1 << 31) - 1)
    ends = np.minimum(u.low * g, u.high * g) + b, np.maximum(u.low * g, u.high * g) + b
    low, high = (np.clip((end + ((1 << (c - 1)) - 1) + ((end >> c) & 1)) >> c, qmin, qmax) for end in ends)
    return Proof(Interval.of(int(low.min()), int(high.max())), (*facts, size))


normalize = define("normalize(Tensor x, int epsilon, bool centre) -> Tensor", _normalize, _fake_normalize, _prove_normalize)
affine = define(
    "affine(Tensor u, Tensor g, Tensor b, int c, int qmin, int qmax, int axis, ScalarType dtype) -> Tensor",
    _affine,
    _fake_affine,
    _prove_affine,
)
