"""scales of a weight ==> the nearest ones whose multipliers s_x * s_w / s_y are exactly b / 2**c."""

from __future__ import annotations

import torch
from fxpress_ir.dyadic import MULTIPLIER_LIMIT, SHIFT_LIMIT_8, SHIFT_LIMIT_16, shift_for
from torch import Tensor

from .layers import Grid, Layer

HALF = 1 << 30
"""Of an accumulator's 32 bits the sum of products may take half, the bias the other half."""
_TOLERANCE = 1e-6
"""How far M * 2**c may lie from an integer, relative to it: float64 noise of three factors."""


def are_free(layer: Layer, scales: Tensor) -> bool:
    """The scales may change: both grids are known, and the multipliers that they make now are dyadic."""
    if layer.source is None or layer.target is None:
        return False
    steps = _steps(scales, layer.source, layer.target)
    return bool(((steps - steps.round()).abs() <= _TOLERANCE * steps).all())


def snapped(scales: Tensor, source: Grid, target: Grid, bias: Tensor | None) -> Tensor:
    """Float64 scales, one a channel; those under which the bias would take more than its half of an accumulator get larger.

    Args:
        scales: float64 and positive.
        bias: the largest magnitude for each scale.
    """
    most = (MULTIPLIER_LIMIT - 1) / 2.0
    real = (scales.double() * source.scale / target.scale).clamp_max(most)
    least = torch.zeros_like(real) if bias is None else bias.double().abs() / (target.scale * HALF)
    real = torch.maximum(real, least)
    c = shift_for(max(float(real.max()), 2.0**-40), limit=_limit(target))
    b = torch.maximum(torch.round(real * 2.0**c), torch.ceil(least * 2.0**c)).clamp(1, MULTIPLIER_LIMIT - 1)
    return b * 2.0**-c * target.scale / source.scale


def sums_fit(codes: Tensor, source: Grid | None) -> bool:
    """``sum |w| * |x|`` stays in its half of an accumulator over 16-bit inputs; over 8-bit ones it does by itself."""
    if source is None or not source.is_short:
        return True
    return float(codes.abs().sum(-1).max()) * source.reach < HALF


def _steps(scales: Tensor, source: Grid, target: Grid) -> Tensor:
    """The multipliers times 2**c."""
    real = scales.double() * source.scale / target.scale
    return real * 2.0 ** shift_for(float(real.max()), limit=_limit(target))


def _limit(target: Grid) -> int:
    return SHIFT_LIMIT_16 if target.is_short else SHIFT_LIMIT_8
