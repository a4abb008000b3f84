"""Ranges ==> scales, and scales snapped so that every ratio between them is exactly b / 2**c."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from fxpress_ir.dyadic import MULTIPLIER_LIMIT, SHIFT_LIMIT_8, SHIFT_LIMIT_16, Dyadic, shift_for
from fxpress_ir.ops import CHORD_BITS
from torch import Tensor

BIAS_LIMIT = 1 << 30
"""|bias| in accumulator units; leaves half of the int32 range to the sum of products."""

PRODUCT_LIMIT = (1 << 30) - 1
"""What the sum of products may reach over 16-bit values; 8-bit ones stay below it by themselves."""

SHORT_LIMIT = (1 << 15) - 1
"""The largest code of 16 bits."""

_CHORD = 1 << CHORD_BITS


@dataclass(frozen=True)
class Grid:
    """The values scale * q for qmin <= q <= qmax, zero point 0."""

    scale: float
    qmin: int
    qmax: int

    @property
    def bits(self) -> int:
        return 16 if self.qmax > 255 else 8

    def values(self) -> Tensor:
        """The real numbers that a table of this grid has entries for (float32).

        Of 8 bits all 256 codes, from the least one of its type; of 16 bits the 513 knots, 128 codes apart, those beyond
        the grid held to the nearest one inside: no value lies between them.
        """
        if self.bits == 16:
            first, last = self.qmin & -_CHORD, -(-self.qmax // _CHORD) * _CHORD
            codes = torch.arange(-(1 << 15), (1 << 15) + 1, _CHORD).clamp(first, last)
        else:
            least = 0 if self.qmin == 0 else -128
            codes = torch.arange(least, least + 256)
        return codes.float() * torch.tensor(self.scale, dtype=torch.float32)


PROBABILITIES = Grid(2.0**-8, 0, 255)
"""The grid of a softmax; 1 itself saturates to 255 / 256."""

AVERAGE_BITS = 8
"""An attention's averages have so many bits more than the values that they average."""


def activation_grid(low: float, high: float, *, unsigned: bool, bits: int = 8, most: int = SHORT_LIMIT) -> Grid:
    """The grid that covers [low, high] with zero point 0: u8 or s8, or codes up to `most` of s16 for 16 bits.

    The scale is a float32 number, because borders divide and multiply in float32. 16-bit grids take twice the range
    that was seen: values outside the calibrated range stay unsaturated, at the price of one of 16 bits.
    """
    if bits == 16:
        qmax = most - 1 + most % 2  # odd, as `saturation_bounds` likes it
        qmin, reach = 0 if unsigned else -qmax - 1, 2 * max(abs(low), abs(high))
    elif unsigned:
        qmin, qmax, reach = 0, 255, max(high, 0.0)
    else:
        qmin, qmax, reach = -128, 127, max(abs(low), abs(high))
    scale = float(np.float32(reach / qmax))
    # a value that is zero on all data, or so small that float32 has no scale for it, gets scale 1
    return Grid(scale if scale >= float(np.finfo(np.float32).tiny) else 1.0, qmin, qmax)


@dataclass(frozen=True)
class Snapped:
    """Weight scales (one a channel) whose multipliers s_x * s_w / s_y are exactly b / 2**c.

    `axis` is the weight's axis of channels, `bits` the width of its integers.
    """

    scales: tuple[float, ...]
    b: tuple[int, ...]
    c: int
    axis: int = 0
    bits: int = 8


def reach_limit(weight: Tensor, *, bits: int = 8, axis: int = 0) -> int:
    """The largest |x| for which ``sum |w| * |x|`` stays within 2**30 at the weight's natural scales, max|w| / most."""
    most = (1 << (bits - 1)) - 1
    flat = weight.detach().transpose(0, axis).reshape(weight.shape[axis], -1).double().abs()
    # rounding adds at most half a step to each weight
    sums = flat.sum(1) / flat.amax(1).clamp_min(torch.finfo(torch.float64).tiny) * most + flat.shape[1] / 2
    return int(PRODUCT_LIMIT / float(sums.max()))


def snap_weight(weight: Tensor, bias: Tensor | None, source: Grid, target: Grid, *, bits: int = 8, axis: int = 0) -> Snapped:
    """Per-output-channel scales of `weight` (channels along `axis`), snapped to the dyadics.

    For each channel the floor and the ceiling of M * 2**c are tried (M from max|w|) and the one with the smaller squared
    weight error is kept. A channel whose bias or, over 16-bit values, whose sum of products would leave +-2**30 gets a
    larger scale.

    Args:
        source: the grid of the layer's input.
        target: the grid of its result.
    """
    most, s_x = (1 << (bits - 1)) - 1, source.scale
    flat = weight.detach().transpose(0, axis).reshape(weight.shape[axis], -1)
    natural = flat.abs().amax(1).double() / most * s_x / target.scale
    c = shift_for(max(float(natural.max()), 2.0**-40), limit=shift_limit(target))
    steps = natural * 2.0**c
    least = torch.ones_like(steps)
    if bias is not None:
        # a grouped transposed weight has a channel for each position in a group: the largest bias of them counts
        largest = bias.detach().double().abs().reshape(-1, len(flat)).amax(0)
        least = torch.ceil(largest / (target.scale * BIAS_LIMIT) * 2.0**c).clamp_min(1)
    unit = math.ldexp(target.scale / s_x, -c)
    if source.bits == 16:
        reach = max(source.qmax, -source.qmin)
        # of each weight at most half a step more than w / scale is left after rounding
        room = max(PRODUCT_LIMIT / reach - flat.shape[1] / 2, 1.0)
        least = torch.maximum(least, torch.ceil(flat.double().abs().sum(1) / room / unit))

    def error(b: Tensor) -> Tensor:
        # in the weight's own precision, a few in-place operations: two candidates of one error differ far above its noise
        scale = (b * unit)[:, None].to(flat.dtype)
        return torch.div(flat, scale).round_().clamp_(-most, most).mul_(scale).sub_(flat).square_().sum(1)

    low, high = (torch.minimum(torch.maximum(b, least), torch.tensor(MULTIPLIER_LIMIT - 1.0)) for b in (steps.floor(), steps.ceil()))
    b = torch.where(error(low) <= error(high), low, high)
    return Snapped(tuple((b * unit).tolist()), tuple(int(value) for value in b), c, axis, bits)


def shift_limit(grid: Grid) -> int:
    """The largest shift of a result on this grid."""
    return SHIFT_LIMIT_16 if grid.bits == 16 else SHIFT_LIMIT_8


def tied_scales(first: Snapped, weight: Tensor, bias: Tensor | None, source: Grid, target: Grid) -> Snapped | None:
    """The scales of a weight that another layer has, too, so that both have its integers; None where this layer's sums do not allow them.

    Its multipliers are those of its own grids, rounded: no scale of theirs is free any more.

    Args:
        first: the other layer's.
        source, target: as of `snap_weight`.
    """
    scales = torch.tensor(first.scales, dtype=torch.float64)
    real = scales * source.scale / target.scale
    if float(real.max()) >= MULTIPLIER_LIMIT / 2 - 1:
        return None
    c = shift_for(float(real.max()), limit=shift_limit(target))
    b = torch.round(real * 2.0**c)
    units = scales * source.scale
    fits = bool((b >= 1).all())
    if bias is not None:
        largest = bias.detach().double().abs().reshape(-1, len(scales)).amax(0)
        fits = fits and bool((largest <= units * BIAS_LIMIT).all())
    if source.bits == 16:
        flat = weight.detach().transpose(0, first.axis).reshape(len(scales), -1).double().abs()
        reach = max(source.qmax, -source.qmin)
        fits = fits and bool(((flat.sum(1) / scales + flat.shape[1] / 2) * reach <= PRODUCT_LIMIT).all())
    return Snapped(first.scales, tuple(int(value) for value in b), c, first.axis, first.bits) if fits else None


def snap_output(s_x: float, target: Grid, *, divisor: int = 1, limit: int | None = None) -> Grid:
    """The grid nearest to `target` whose scale makes s_x / (divisor * s_y) exactly dyadic."""
    limit = limit or shift_limit(target)
    dyadic = Dyadic.nearest(s_x / (divisor * target.scale), limit=limit)
    return Grid(s_x / (divisor * dyadic.value), target.qmin, target.qmax)


def snap_sum(s_x: float, s_y: float, target: Grid) -> Grid:
    """The grid nearest to `target` whose scale makes the larger of the two multipliers of an add exactly dyadic."""
    largest = max(s_x, s_y)
    return snap_output(largest, target, limit=SHIFT_LIMIT_16)
