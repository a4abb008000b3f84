"""Rows of scores ==> exponentials from a table, their sum's reciprocal, and what they weigh, in exact integers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .product import accumulator, matmul
from .rounding import round_half_even

Array = NDArray[Any]
Integers = NDArray[np.int64]

_SEEDS = [int(seed) for seed in np.rint(2.0**46 / ((np.arange(256) + 256.5) * 2.0**22))]
"""2**46 / m at the middle of each of the 256 steps of 2**22 from 2**30 to 2**31."""


def _reciprocal(total: int) -> tuple[int, int]:
    """R and n with 1 / total ~ R / 2**(16 + n), 1 for a total of 0: the seed for m = total * 2**(30 - n), and one Newton step."""
    total = max(total, 1)
    n = total.bit_length() - 1
    m = (total << 30) >> n
    seed = _SEEDS[(m >> 22) - 256]
    missing = (2**31 - (m + 2**14) // 2**15 * seed) // 2**8
    return seed + (seed * missing + 2**22) // 2**23, n


def _reciprocals(totals: Integers) -> tuple[Integers, Integers]:
    found = np.array([_reciprocal(total) for total in totals.ravel().tolist()], np.int64).reshape(*totals.shape, 2)
    return found[..., 0], found[..., 1]


def _half_up(x: Integers, shift: Integers) -> Integers:
    """floor(x / 2**shift + 1/2)."""
    doubled: Integers = 2 * x // (1 << shift)
    return (doubled + 1) // 2


def _rescaled(x: Array, b: int, c: int, qmin: int, qmax: int) -> Integers:
    return np.clip(round_half_even(x.astype(np.int64) * b, c), qmin, qmax)


def softmax(x: Array, table: Array, bits: int) -> Array:
    """Probabilities that count 2**-bits, along the last dimension: table[max - x] over their sum, saturated."""
    scores = x.astype(np.int64)
    exponentials = table.astype(np.int64)[scores.max(-1, keepdims=True) - scores]
    factor, n = _reciprocals(exponentials.sum(-1, keepdims=True))
    probabilities = _half_up(exponentials * factor, np.minimum(16 + n - bits, 31))
    result: Array = np.minimum(probabilities, 255 if bits == 8 else 32767).astype(np.uint8 if bits == 8 else np.int16)
    return result


def attention(
    q: Array, k: Array, v: Array, mask: Array | None, bias: Array | None, table: Array, b: int, c: int, ob: int, oc: int,
    qmin: int, qmax: int, causal: bool, dtype: str, unseen: str = "zero",
) -> Array:  # fmt: skip
    """For each query the mean of v under the exponentials of its scores, which count from the largest that it sees.

    `mask` is true where a key is seen; it and `bias` are broadcast to the scores' shape. A query that sees nothing gives 0, the mean
    of all values, or what it would give without the mask, as `unseen` says.
    """
    sums = matmul(q, k.swapaxes(-1, -2))
    scores = _rescaled(sums if bias is None else accumulator(sums.astype(np.int64) + bias), b, c, -128, 127)
    queries, keys = np.ogrid[: q.shape[-2], : k.shape[-2]]
    earlier = np.broadcast_to((keys <= queries) if causal else np.True_, scores.shape)
    seen = earlier & (np.True_ if mask is None else mask)
    alone = ~seen.any(-1, keepdims=True)
    if unseen == "unmasked":
        seen = np.where(alone, earlier, seen)
    counted = seen | (alone & (unseen == "mean"))
    largest = np.where(seen, scores, -128).max(-1, keepdims=True)
    exponentials = np.where(counted, table.astype(np.int64)[np.where(seen, largest - scores, 0)], 0)
    weighted = matmul(exponentials, v).astype(np.int64)
    factor, n = _reciprocals(exponentials.sum(-1, keepdims=True))
    mean = _half_up(_half_up(weighted, np.maximum(n - 7, 0)) * factor, np.asarray(15))
    return _rescaled(mean, ob, oc, qmin, qmax).astype(dtype)
