"""values, batch by batch ==> a histogram of fixed size that two runs can merge, and the range that a method reads off it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .range import Range

BINS = 4096
"""Bins over [-reach, reach); reach is a power of two above every magnitude, so that histograms of any two batches nest."""
LEAST = 2.0**-100
"""Smaller magnitudes take no finer bins than this one."""
LEVELS = 128
"""Levels of an 8-bit magnitude."""
AT_ONCE = 1 << 22
"""Values that are counted at once: bounds the memory for their bins' numbers."""


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of values over [-reach, reach) in `BINS` equal bins, and the range seen.

    Reach grows by doubling, when pairs of bins are added up; so the order of batches changes nothing, and `merge` of two
    runs is the histogram of both, count by count.
    """

    counts: NDArray[np.int64]
    reach: float
    seen: Range

    @classmethod
    def of(cls, values: Tensor, seen: Range | None = None) -> Histogram:
        """The histogram of one tensor, and its range where that is known."""
        seen = seen or Range.of(values)
        reach = math.ldexp(1.0, math.frexp(max(abs(seen.low), abs(seen.high), LEAST))[1])
        counts = torch.zeros(BINS, dtype=torch.int64)
        for part in torch.split(values.detach().reshape(-1), AT_ONCE):
            # float64 divides by the power of two exactly, so that bins of one reach nest in those of the next
            counts += torch.bincount((part.double() * (BINS / 2 / reach)).floor_().long() + BINS // 2, minlength=BINS).cpu()
        return cls(counts.numpy(), reach, seen)

    def merge(self, other: Histogram) -> Histogram:
        """The histogram of both sets of values."""
        reach = max(self.reach, other.reach)
        counts = self._over(reach) + other._over(reach)
        return Histogram(counts, reach, self.seen.merge(other.seen))

    def _over(self, reach: float) -> NDArray[np.int64]:
        counts, own = self.counts, self.reach
        while own < reach:
            halved = counts.reshape(-1, 2).sum(1)
            counts, own = np.pad(halved, (BINS // 4, BINS // 4)), own * 2
        return counts

    def range(self, method: str, percentile: float = 99.99) -> Range:
        """The range to quantise: ``minmax``, ``percentile``, ``mse`` or ``entropy``."""
        return {
            "minmax": lambda: self.seen,
            "percentile": lambda: self._percentile(percentile),
            "mse": self._mse,
            "entropy": self._entropy,
        }[method]()

    @property
    def _most(self) -> float:
        return max(abs(self.seen.low), abs(self.seen.high))

    def _clipped(self, reach: float) -> Range:
        return Range(max(self.seen.low, -reach), min(self.seen.high, reach), self.seen.spread)

    def _percentile(self, percentile: float) -> Range:
        """The smallest symmetric range that holds `percentile` of the values."""
        magnitudes = self._magnitudes()
        enough = np.searchsorted(np.cumsum(magnitudes), percentile / 100 * magnitudes.sum())
        return self._clipped((int(enough) + 1) * 2 * self.reach / BINS)

    def _magnitudes(self) -> NDArray[np.int64]:
        half = BINS // 2
        return self.counts[half:] + self.counts[half - 1 :: -1]

    def _candidates(self) -> NDArray[np.float64]:
        return self._most * np.linspace(0.1, 1.0, 91)

    def _mse(self) -> Range:
        """The clip that leaves the least squared error of an 8-bit grid (row M213's MSE clip)."""
        if not self._most:
            return self.seen
        centres = (np.arange(BINS) + 0.5) * 2 * self.reach / BINS - self.reach
        levels = 255 if self.seen.low >= 0 else 127

        def error(reach: float) -> float:
            step = reach / levels
            rounded = np.clip(np.rint(centres / step), 0 if self.seen.low >= 0 else -levels, levels) * step
            return float((self.counts * (rounded - centres) ** 2).sum())

        return self._clipped(float(min(self._candidates(), key=error)))

    def _entropy(self) -> Range:
        """The clip whose 128 levels are nearest to the clipped distribution in Kullback-Leibler divergence (Migacz 2017)."""
        if not self._most:
            return self.seen
        magnitudes, width = self._magnitudes().astype(np.float64), 2 * self.reach / BINS
        magnitudes[0] = magnitudes[1]  # zeros, of which a rectifier makes many, are on every grid
        last = max(LEVELS, int(self._most / width) + 1)
        counts = sorted({*range(LEVELS, last, max(1, last // 128)), last})
        return self._clipped(min(counts, key=lambda count: divergence(magnitudes, count)) * width)


def divergence(magnitudes: NDArray[np.float64], count: int) -> float:
    """Kullback-Leibler divergence of the first `count` bins, the rest clipped to the last of them, from `LEVELS` levels of them."""
    full = magnitudes[:count] > 0
    edges = np.linspace(0, count, LEVELS + 1).astype(int)
    sums, filled = (np.add.reduceat(values, edges[:-1]) for values in (magnitudes[:count], full.astype(np.float64)))
    levels = np.repeat(sums / np.maximum(filled, 1), np.diff(edges)) * full
    clipped = magnitudes[:count].copy()
    clipped[-1] += magnitudes[count:].sum()
    p, q = clipped / clipped.sum(), levels / max(levels.sum(), 1e-30)
    there = p > 0
    return float((p[there] * np.log(p[there] / np.maximum(q[there], 1e-12))).sum())
