"""Channels of different widths ==> exponents a, and 4**a copies of each over 2**a, whose squares sum to those of the channels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_STEPS = (1 << 15) - 1
_UNIT = 1 << 10
"""Integer normalisations count in 2**-10."""


@dataclass(frozen=True)
class Copies:
    """Which channel stands where.

    Attributes:
        exponents: int64 [channels].
        source: the channel that each place has, int64 [places]; the first places have the channels in order.
        signs: 1 or -1, float64 [places]: over ``2**a`` and with these signs, the copies of a channel sum to the channel.
    """

    exponents: Tensor
    source: Tensor
    signs: Tensor


def exponents(reach: Tensor, largest: int) -> Tensor:
    """The least exponents, 0 to `largest`, with ``reach / 2**a`` at most the widest reach over ``2**largest``; int64 [channels]."""
    least = float(reach.max()) / 2**largest
    return torch.log2(reach.double().clamp_min(1e-30) / max(least, 1e-30)).ceil().clamp(0, largest).to(torch.int64)


def copies_of(chosen: Tensor) -> Copies:
    """Each channel, then the copies that are missing: (4**a + 2**a) / 2 of a channel are positive, the first one among them."""
    channels = torch.arange(len(chosen))
    positive, negative = (4**chosen + 2**chosen) // 2 - 1, (4**chosen - 2**chosen) // 2
    source = torch.cat([channels, channels.repeat_interleave(positive), channels.repeat_interleave(negative)])
    signs = torch.ones(len(source), dtype=torch.float64)
    signs[len(source) - int(negative.sum()) :] = -1
    return Copies(chosen, source, signs)


def rounded_error(rows: Tensor, reach: Tensor, chosen: Tensor, gain: Tensor, shift: Tensor, epsilon: float, *, centre: bool) -> float:
    """The squared error of a normalisation's results over their squares, rounded as its integers are: 16, 10 and 8 bits.

    Args:
        rows: what is normalised, float64 [n, channels], centred already where `centre`.
        reach: the largest |x| of each channel.
        chosen: the exponents.
        gain, shift: float64 [channels].
        centre: what rounding does to the mean counts, too.
    """
    total, factors, counts = int((4**chosen).sum()), 2.0**chosen, 4.0**chosen
    exact = rows / (rows.square().mean(1, keepdim=True) + epsilon).sqrt() * gain + shift
    step = max(2 * float((reach / factors).max()) / _STEPS, 1e-30)  # 16-bit grids take twice the range
    stored = (rows / factors / step).round() * step
    mean = (stored * factors).sum(1, keepdim=True) / total if centre else 0.0
    power = (stored.square() * counts).sum(1, keepdim=True) / total + epsilon * len(chosen) / total
    units = ((stored - mean) / power.sqrt() * _UNIT).round() / _UNIT
    found = units * factors * math.sqrt(len(chosen) / total) * gain + shift
    width = max(float(exact.abs().max()) / 127, 1e-30)
    found = (found / width).round() * width
    return float((found - exact).square().sum() / exact.square().sum().clamp_min(1e-30))
