"""1 / s = R / 2**(16 + n): the leading bit, a table of 256 and one Newton step; nothing divides."""

from __future__ import annotations

import torch
from torch import Tensor

RECIPROCAL_TABLE = tuple(((1 << 26) // (2 * i + 513) + 1) >> 1 for i in range(256))
"""rn(2**46 / ((i + 256.5) * 2**22)): 2**46 / m at the middle of the i-th 2**22 numbers m from 2**30 on."""

RECIPROCAL_LIMIT = 1 << 31
"""Arguments are below it."""

RECIPROCAL_MOST = 1 << 16
"""The largest R; it belongs to powers of two."""

_POWERS = torch.tensor([1 << k for k in range(1, 31)])


def reciprocal(s: Tensor) -> tuple[Tensor, Tensor]:
    """R in [2**15, 2**16] and n = floor(log2 s), int64, for integers s in [0, 2**31), of which 0 counts as 1.

    The relative error of R / 2**(16 + n) is at most 2.61e-5 < 2**-15: the most over every m = s << (30 - n).
    """
    s = s.long().clamp(min=1)
    n = torch.bucketize(s, _POWERS.to(s.device), right=True)
    m = s << (30 - n)
    start = torch.tensor(RECIPROCAL_TABLE, device=s.device)[(m >> 22) - 256]
    rest = (1 << 31) - ((m + (1 << 14)) >> 15) * start
    return start + ((start * (rest >> 8) + (1 << 22)) >> 23), n
