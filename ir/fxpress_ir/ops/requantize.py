"""y = clamp(rne(acc * b / 2**c)) and z = clamp(rne((x * bx + y * by) / 2**c)), all in int32; a negative by subtracts."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from ..dyadic import saturation_bounds
from .library import Fact, Interval, Intervals, Proof, Tensors, arguments, check_channels, constant, define


def _shift(product: Tensor, c: int) -> Tensor:
    """product / 2**c, half to even, on int32; ``>>`` is arithmetic in torch."""
    return (product + ((1 << (c - 1)) - 1) + ((product >> c) & 1)) >> c


def _requantize(x: Tensor, b: Tensor, c: int, qmin: int, qmax: int, axis: int, dtype: torch.dtype) -> Tensor:
    low, high = saturation_bounds(b.cpu().numpy().astype(np.int64), c, qmin, qmax)
    shape = [-1 if d == axis % x.dim() else 1 for d in range(x.dim())]

    def spread(values: Tensor) -> Tensor:
        return values.to(device=x.device, dtype=torch.int32).reshape(shape)

    clipped = torch.clamp(x.to(torch.int32), spread(torch.from_numpy(low)), spread(torch.from_numpy(high)))
    return _shift(clipped * spread(b), c).clamp_(qmin, qmax).to(dtype)


def _add(x: Tensor, y: Tensor, bx: int, by: int, c: int, qmin: int, qmax: int, dtype: torch.dtype) -> Tensor:
    return _shift(x.to(torch.int32) * bx + y.to(torch.int32) * by, c).clamp_(qmin, qmax).to(dtype)


def _fake_requantize(x: Tensor, b: Tensor, c: int, qmin: int, qmax: int, axis: int, dtype: torch.dtype) -> Tensor:
    check_channels("b", b, x.shape[axis])
    return torch.empty_like(x, dtype=dtype)


def _rounded(node: fx.Node, low: np.ndarray, high: np.ndarray, c: int, qmin: int, qmax: int, dtype: torch.dtype) -> Proof:
    """The facts of a shift of [low, high] by c with its rounding term, and the interval after the clamp."""
    term = (1 << (c - 1)) - 1
    least, most = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    facts = (
        Fact(node.name, "shift", c, c, 1, 16),
        Fact.fits(node.name, "product and rounding term", low, high + term + 1, 32),
        Fact(node.name, "result", qmin, qmax, least, most),
    )
    ends = [np.clip((v + term + ((v >> c) & 1)) >> c, qmin, qmax) for v in (low, high)]
    return Proof(Interval.of(int(ends[0].min()), int(ends[1].max())), facts)


def prove_rescaling(node: fx.Node, x: Interval, b: NDArray[np.int64], c: int, qmin: int, qmax: int, dtype: torch.dtype) -> Proof:
    """The interval of clamp(rne(x * b / 2**c)) and what its arithmetic needs, for x pre-clipped to what does not saturate.

    Args:
        x: bounds of shape () or as b's.
        b: multipliers, shape [channels] or [1].
    """
    multiplier = Fact(node.name, "multiplier", int(b.min()), int(b.max()), 1, (1 << 15) - 1)
    if not multiplier.holds or not 1 <= c <= 31:
        return Proof(Interval.of(qmin, qmax), (multiplier, Fact(node.name, "shift", c, c, 1, 16)))
    bound_low, bound_high = saturation_bounds(b, c, qmin, qmax)
    low, high = np.clip(x.low, bound_low, bound_high), np.clip(x.high, bound_low, bound_high)
    proof = _rounded(node, low * b, high * b, c, qmin, qmax, dtype)
    clip = Fact.fits(node.name, "pre-clip bounds", bound_low, bound_high, 32)
    return Proof(proof.interval, (multiplier, clip, *proof.facts))


def _prove_requantize(node: fx.Node, intervals: Intervals, tensors: Tensors) -> Proof:
    named = arguments(node)
    x, rank = intervals[named["x"]], named["x"].meta["val"].dim()
    if x.axis is not None and (x.axis - named["axis"]) % rank:
        x = x.hull()  # the multipliers run along another axis than the bounds
    settings = [named[key] for key in ("c", "qmin", "qmax", "dtype")]
    return prove_rescaling(node, x, constant(named["b"], tensors), *settings)


def _prove_add(node: fx.Node, intervals: Intervals, tensors: Tensors) -> Proof:
    named = arguments(node)
    c = named["c"]
    factors = [(intervals[named[operand]].hull(), named[multiplier]) for operand, multiplier in (("x", "bx"), ("y", "by"))]
    multipliers = tuple(Fact(node.name, f"multiplier {b}", abs(b), abs(b), 1, (1 << 15) - 1) for _, b in factors)
    if not all(fact.holds for fact in multipliers) or not 1 <= c <= 31:
        return Proof(Interval.of(named["qmin"], named["qmax"]), (*multipliers, Fact(node.name, "shift", c, c, 1, 16)))
    ends = [sorted((int(x.low) * b, int(x.high) * b)) for x, b in factors]
    low, high = (np.asarray(sum(parts), np.int64) for parts in zip(*ends, strict=True))
    proof = _rounded(node, low, high, c, named["qmin"], named["qmax"], named["dtype"])
    return Proof(proof.interval, (*multipliers, *proof.facts))


requantize = define(
    "requantize(Tensor x, Tensor b, int c, int qmin, int qmax, int axis, ScalarType dtype) -> Tensor",
    _requantize,
    _fake_requantize,
    _prove_requantize,
)
add = define(
    "add(Tensor x, Tensor y, int bx, int by, int c, int qmin, int qmax, ScalarType dtype) -> Tensor",
    _add,
    lambda x, y, bx, by, c, qmin, qmax, dtype: (x.to(torch.int32) + y.to(torch.int32)).to(dtype),
    _prove_add,
)
