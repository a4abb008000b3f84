"""1 / sqrt(v) = R / 2**(16 + h): leading bits, a table of 384 and one Newton step; no division, no square root."""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor

RSQRT_TABLE = tuple((isqrt((1 << 42) // (2 * i + 257)) + 1) >> 1 for i in range(384))
"""rn(2**31 / sqrt((i + 128.5) * 2**23)): 2**31 / sqrt(m) at the middle of the i-th 2**23 numbers m from 2**30 on."""

RSQRT_LIMIT = 1 << 62
"""Arguments are positive and below it."""

_QUARTERS = torch.tensor([1 << (2 * k) for k in range(1, 31)])


def rsqrt(v: Tensor) -> tuple[Tensor, Tensor]:
    """R in [2**15, 2**16] and h = floor(log4 v), int64, for int64 v in [1, 2**62).

    The relative error of 2**-(16 + h) * R is at most 1.56e-5 = 2**-15.96: the most over every m = v * 4**(15 - h), and less
    than 2**-31 for the bits that m loses where h > 15.
    """
    h = torch.bucketize(v, _QUARTERS.to(v.device), right=True)
    shift = 30 - 2 * h
    m = (v << shift.clamp(min=0)) >> (-shift).clamp(min=0)
    start = torch.tensor(RSQRT_TABLE, device=v.device)[(m >> 23) - 128]
    rest = (1 << 54) - (m >> 8) * start * start
    return start + ((start * (rest >> 24) + (1 << 30)) >> 31), h
