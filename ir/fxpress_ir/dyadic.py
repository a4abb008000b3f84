"""x * b / 2**c, rounded half to even: the only multiplication by a real number that an integer program has."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import ProgramError

MULTIPLIER_LIMIT = 1 << 15
"""Multipliers satisfy 1 <= b < 2**15, so that 8-bit sums of two products and f32 products stay exact."""

SHIFT_LIMIT_8 = 16
"""Largest shift of an 8-bit result (profile Q8): up to here float32 runtimes round to the same bits."""

SHIFT_LIMIT_16 = 15
"""Largest shift of a 16-bit result, and of an add of two tensors."""


@dataclass(frozen=True)
class Dyadic:
    """The rational b / 2**c.

    Raises:
        ProgramError: b or c outside 1 <= b < 2**15, 1 <= c <= 16.
    """

    b: int
    c: int

    def __post_init__(self) -> None:
        if not 1 <= self.b < MULTIPLIER_LIMIT:
            raise ProgramError(f"multiplier b={self.b} is outside [1, {MULTIPLIER_LIMIT})", way_on="choose another shift")
        if not 1 <= self.c <= SHIFT_LIMIT_8:
            raise ProgramError(f"shift c={self.c} is outside [1, {SHIFT_LIMIT_8}]", way_on="choose another scale")

    def __str__(self) -> str:
        return f"{self.b}/2^{self.c}"

    @property
    def value(self) -> float:
        """The rational as a float64, exactly."""
        return math.ldexp(self.b, -self.c)

    @classmethod
    def nearest(cls, multiplier: float, *, limit: int = SHIFT_LIMIT_8) -> Dyadic:
        """The dyadic nearest to a positive multiplier below 2**14, with the shift that `shift_for` gives."""
        c = shift_for(multiplier, limit=limit)
        return cls(max(1, round(math.ldexp(multiplier, c))), c)


def shift_for(largest: float, *, limit: int = SHIFT_LIMIT_8) -> int:
    """The shift c for multipliers up to `largest`, so that every b = M * 2**c stays below 2**15.

    ``c = max(1, min(limit, 14 - floor(log2 largest)))``.

    Raises:
        ProgramError: `largest` is not a positive number below 2**14 - 1/2.
    """
    if not 0 < largest < 2**14 - 0.5:
        raise ProgramError(f"multiplier {largest!r} is outside (0, 2^14)", way_on="rescale the layer's weights or its input")
    c = max(1, min(limit, 14 - math.floor(math.log2(largest))))
    return c - 1 if c > 1 and round(math.ldexp(largest, c)) >= MULTIPLIER_LIMIT else c


def round_half_even(numerator: int, c: int) -> int:
    """numerator / 2**c rounded half to even, on Python integers (any size)."""
    return (numerator + (1 << (c - 1)) - 1 + ((numerator >> c) & 1)) >> c


def saturation_bounds(b: NDArray[np.int64], c: int, qmin: int, qmax: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The accumulators A_lo, A_hi outside which ``clamp(rne(acc * b / 2**c), qmin, qmax)`` no longer changes.

    Clamping an accumulator into [A_lo, A_hi] before the product changes no output bit and bounds the product by
    ``(max(|qmin|, |qmax|) + 3/2) * 2**c + b``. An odd qmin or an even qmax, whose ties round to the outside, is widened
    by one; the clamp after the shift takes it back.

    Args:
        b: multipliers, shape [channels] or [1], 1 <= b < 2**15.
        c: shift, 1 <= c <= 16.
        qmin, qmax: bounds of the result.
    """
    even_min = qmin - (qmin & 1)
    odd_max = qmax + 1 - (qmax & 1)
    low = ((2 * even_min + 1) << (c - 1)) // b
    high = ((2 * odd_max - 1) << (c - 1)) // b + 1
    return low, high
