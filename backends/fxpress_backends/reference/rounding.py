"""p / 2**c ==> the nearest integer, ties to the even one, on exact 64-bit products."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def round_half_even(product: NDArray[np.int64], c: int) -> NDArray[np.int64]:
    """The floor, and one more where the rest is above one half, or one half of an odd floor's."""
    floor = product >> c
    rest, half = product & ((1 << c) - 1), 1 << (c - 1)
    up: NDArray[np.bool_] = (rest > half) | ((rest == half) & (floor & 1 == 1))
    return floor + up.astype(np.int64)
