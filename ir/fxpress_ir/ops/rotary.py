"""y = clamp(rne((x * C + rot(x) * S) / 2**c)) with rot(x) = cat(-x[..., d/2:], x[..., :d/2]): a rotary position embedding in int32.

The reals are cosine = C / 2**14 and sine = S / 2**14, say, and c takes 2**14 and the ratio of the scales together. The
rounding is the only error beside that of the tables: half a unit of y, where the clamp does not act.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, fx

from ..dyadic import round_half_even
from .library import Fact, Interval, Intervals, Proof, Tensors, arguments, check, define

_MOST_SHIFT = 15


def _rotary(x: Tensor, cosine: Tensor, sine: Tensor, c: int, qmin: int, qmax: int, dtype: torch.dtype) -> Tensor:
    first, second = x.to(torch.int32).chunk(2, -1)
    rotated = torch.cat([-second, first], -1)
    product = torch.cat([first, second], -1) * cosine.to(torch.int32) + rotated * sine.to(torch.int32)
    rounded = (product + ((1 << (c - 1)) - 1) + ((product >> c) & 1)) >> c
    return rounded.clamp_(qmin, qmax).to(dtype)


def _check_table(name: str, table: Tensor, x: Tensor) -> None:
    sizes = zip(reversed(table.shape), reversed(x.shape), strict=False)
    fits = table.dim() <= x.dim() and all((isinstance(size, int) and size == 1) or size == wanted for size, wanted in sizes)
    check(fits, lambda: f"{name} has shape {list(table.shape)}, which does not go into {list(x.shape)}")


def _fake_rotary(x: Tensor, cosine: Tensor, sine: Tensor, c: int, qmin: int, qmax: int, dtype: torch.dtype) -> Tensor:
    check(x.dim() >= 1 and x.shape[-1] % 2 == 0, lambda: f"x has shape {list(x.shape)}, expected an even last dimension")
    _check_table("cosine", cosine, x)
    _check_table("sine", sine, x)
    return torch.empty_like(x, dtype=dtype)


def _prove_rotary(node: fx.Node, intervals: Intervals, tensors: Tensors) -> Proof:
    """rot(x) is any x or -x, so |sum| <= |x| (|C| + |S|); the interval keeps the sign that x and C may have."""
    named = arguments(node)
    x, cosine, sine = (intervals[named[operand]].hull() for operand in ("x", "cosine", "sine"))
    c, limits = named["c"], torch.iinfo(named["dtype"])
    turned = int(x.magnitude) * int(sine.magnitude)
    corners = [int(a) * int(b) for a in (x.low, x.high) for b in (cosine.low, cosine.high)]
    low, high = min(corners) - turned, max(corners) + turned
    facts = [
        Fact(node.name, "shift", c, c, 1, _MOST_SHIFT),
        Fact(node.name, "result", named["qmin"], named["qmax"], limits.min, limits.max),
    ]
    if not facts[0].holds:
        return Proof(Interval.of(named["qmin"], named["qmax"]), tuple(facts))
    reach = np.asarray(int(x.magnitude) * (int(cosine.magnitude) + int(sine.magnitude)) + (1 << c), np.int64)
    facts.append(Fact.fits(node.name, "sum of products and rounding term (any order)", -reach, reach, 32))
    ends = [min(max(round_half_even(end, c), named["qmin"]), named["qmax"]) for end in (low, high)]
    return Proof(Interval.of(*ends), tuple(facts))


rotary = define(
    "rotary(Tensor x, Tensor cosine, Tensor sine, int c, int qmin, int qmax, ScalarType dtype) -> Tensor",
    _rotary,
    _fake_rotary,
    _prove_rotary,
)
