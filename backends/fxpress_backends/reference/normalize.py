"""Rows ==> 2**10 * deviation / standard deviation (or / root mean square), and a gain and an offset a channel, in exact integers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .rounding import round_half_even

Integers = NDArray[np.integer]

_SEEDS = [int(seed) for seed in np.rint(2.0**31 / np.sqrt((np.arange(384) + 128.5) * 2.0**23))]
"""2**31 / sqrt(m) at the middle of each of the 384 steps of 2**23 from 2**30 to 2**32."""


def _reciprocal_root(v: int) -> tuple[int, int]:
    """R and h with 1 / sqrt(v) ~ R / 2**(16 + h): the seed for m = v * 4**(15 - h), improved by one Newton step."""
    h = (v.bit_length() - 1) // 2
    m = (v << 30) >> 2 * h
    seed = _SEEDS[(m >> 23) - 128]
    missing = ((1 << 54) - (m >> 8) * seed**2) >> 24
    return seed + (seed * missing + (1 << 30) >> 31), h


def normalize(x: Integers, epsilon: int, centre: bool) -> NDArray[np.int32]:
    """floor(d' * R' / 2**14 + 1/2) for rows along the last dimension, d' = floor(2**(9 - h) * d + 1/2) and R' = floor(R / 2 + 1/2)."""
    count, values = x.shape[-1], x.astype(np.int64)
    total = values.sum(-1, keepdims=True) if centre else np.zeros((*x.shape[:-1], 1), np.int64)
    moments = count * np.square(values).sum(-1, keepdims=True) - np.square(total) + epsilon
    roots = np.array([_reciprocal_root(v) for v in moments.ravel().tolist()], np.int64).reshape(*moments.shape, 2)
    root, half_log = (roots[..., 0] + 1) // 2, roots[..., 1]
    doubled = ((count * values - total) << 10) // (1 << half_log)
    scaled = (doubled + 1) // 2
    result: NDArray[np.int64] = (scaled * root + (1 << 13)) // (1 << 14)
    return result.astype(np.int32)


def affine(u: Integers, g: Integers, b: Integers, c: int, qmin: int, qmax: int, axis: int, dtype: str) -> Integers:
    """clamp(rne((u * g + b) / 2**c)), gains and offsets along `axis`; |u * g| < 2**46 for int32 u."""
    along = [-1 if d == axis % u.ndim else 1 for d in range(u.ndim)]
    gain, offset = (values.astype(np.int64).reshape(along) for values in (g, b))
    return np.clip(round_half_even(u.astype(np.int64) * gain + offset, c), qmin, qmax).astype(dtype)
