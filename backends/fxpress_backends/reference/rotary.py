"""Each pair (x_i, x_{i + d/2}) ==> the pair turned by an angle whose cosine and sine are integers over 2**c."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .rounding import round_half_even

Integers = NDArray[np.integer]


def rotary(x: Integers, cosine: Integers, sine: Integers, c: int, qmin: int, qmax: int, dtype: str) -> Integers:
    """In the first half of the last dimension clamp(rne((x_i C_i - x_{i + d/2} S_i) / 2**c)), in the second + x_{i - d/2} S_i.

    The tables are broadcast to x.
    """
    half = x.shape[-1] // 2
    values, cosines, sines = (np.broadcast_to(array, x.shape).astype(np.int64) for array in (x, cosine, sine))
    total = values * cosines
    total[..., :half] -= values[..., half:] * sines[..., :half]
    total[..., half:] += values[..., :half] * sines[..., half:]
    return np.clip(round_half_even(total, c), qmin, qmax).astype(dtype)
