"""draws of z^T H z, batch by batch ==> the trace of H, with its interval; two runs can merge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats


@dataclass(frozen=True)
class Trace:
    """Draws of z^T H z: how many, their mean, the sum of their squared distances from it; `size` is the number of values."""

    size: int
    count: int
    mean: float
    squares: float

    @property
    def eigenvalue(self) -> float:
        """The mean eigenvalue, the trace over the number of values."""
        return self.mean / self.size

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Student's interval of the trace; infinite from a single draw."""
        if self.count < 2:
            return -math.inf, math.inf
        error = math.sqrt(self.squares / (self.count - 1) / self.count)
        reach = float(stats.t.ppf((1 + confidence) / 2, self.count - 1)) * error
        return self.mean - reach, self.mean + reach

    def merge(self, other: Trace) -> Trace:
        """The draws of both (Chan et al. 1979)."""
        count, gap = self.count + other.count, other.mean - self.mean
        mean = self.mean + gap * other.count / count
        return Trace(self.size, count, mean, self.squares + other.squares + gap**2 * self.count * other.count / count)


_TYPES = {"size": np.dtype(np.int64), "count": np.dtype(np.int64), "mean": np.dtype(np.float64), "squares": np.dtype(np.float64)}


def traces_to_arrays(traces: Sequence[Trace]) -> dict[str, NDArray[Any]]:
    """One array [traces] for each number."""
    return {part: np.array([getattr(trace, part) for trace in traces], dtype) for part, dtype in _TYPES.items()}


def traces_from_arrays(names: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Trace]:
    """The inverse of `traces_to_arrays`, by name.

    Raises:
        ValueError: the arrays are none of its.
    """
    if {part: (array.dtype, array.shape) for part, array in arrays.items()} != {part: (own, (len(names),)) for part, own in _TYPES.items()}:
        raise ValueError("arrays of other types or shapes")
    if any((arrays[part] < 1).any() for part in ("size", "count")) or not all(np.isfinite(arrays[part]).all() for part in _TYPES):
        raise ValueError("no draws, or numbers that are not finite")
    return dict(zip(names, map(Trace, *(arrays[part].tolist() for part in _TYPES)), strict=True))
