"""interleaved timings ==> medians, and the ratio of two medians with a bootstrap interval over turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from fxpress_ir.errors import BenchError
from numpy.typing import NDArray

RESAMPLES = 2000
"""Bootstrap resamples (Efron and Tibshirani 1993: 1000 or more for percentile intervals)."""


@dataclass(frozen=True)
class Row:
    """One contender: milliseconds a run, the number of timed runs, bytes on disk where known."""

    name: str
    p50_ms: float
    p90_ms: float
    runs: int
    size_bytes: int | None


@dataclass(frozen=True)
class Ratio:
    """How many times the second's time the first takes: ratio of medians and its 95 % interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, eq=False)
class Table:
    """What a benchmark measured.

    Attributes:
        names: the contenders, in their order.
        seconds: wall time of each run, shape [contenders, turns, runs a turn]; equal turns stand beside each other in time.
        sizes: bytes on disk, or None.
        notes: what a reader has to know of the machine.
    """

    names: tuple[str, ...]
    seconds: NDArray[np.float64]
    sizes: tuple[int | None, ...]
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[Row, ...]:
        """One row a contender, in their order."""
        rows = []
        for name, times, size in zip(self.names, self.seconds, self.sizes, strict=True):
            p50, p90 = np.quantile(times, (0.5, 0.9)) * 1e3
            rows.append(Row(name, float(p50), float(p90), times.size, size))
        return tuple(rows)

    def ratio(self, a: str | int, b: str | int) -> Ratio:
        """Time of `a` over time of `b`, each a name or a position.

        The interval resamples turns, the same turns for both, because neighbouring runs share the machine's mood.

        Raises:
            BenchError: no such contender.
        """
        first, second = self.seconds[self._position(a)], self.seconds[self._position(b)]
        turns = first.shape[0]
        drawn = np.random.default_rng(0).integers(turns, size=(RESAMPLES, turns))
        ratios = np.median(first[drawn], axis=(1, 2)) / np.median(second[drawn], axis=(1, 2))
        low, high = np.quantile(ratios, (0.025, 0.975))
        return Ratio(float(np.median(first) / np.median(second)), float(low), float(high))

    def median(self, a: str | int) -> tuple[float, float, float]:
        """Seconds of a run of `a`: the median, and the ends of its 95 % interval, from resampled turns.

        Raises:
            BenchError: no such contender.
        """
        seconds = self.seconds[self._position(a)]
        drawn = np.random.default_rng(0).integers(len(seconds), size=(RESAMPLES, len(seconds)))
        low, high = np.quantile(np.median(seconds[drawn], axis=(1, 2)), (0.025, 0.975))
        middle = float(np.median(seconds))
        return middle, min(float(low), middle), max(float(high), middle)

    def _position(self, contender: str | int) -> int:
        if isinstance(contender, int) and 0 <= contender < len(self.names):
            return contender
        if contender in self.names:
            return self.names.index(str(contender))
        raise BenchError(f"no contender {contender!r}", way_on=f"the table has {', '.join(self.names)}")

    def __str__(self) -> str:
        head = ("contender", "p50 ms", "p90 ms", "runs", "size", f"time / {self.names[0]} [95 %]")
        lines = [head, *(self._cells(row) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(_aligned(cells, widths)).rstrip() for cells in lines]
        return "\n".join([*text, *(f"note: {note}" for note in self.notes)])

    def _cells(self, row: Row) -> tuple[str, ...]:
        size = "-" if row.size_bytes is None else f"{row.size_bytes / 1024:.1f} KiB"
        ratio = "1" if row.name == self.names[0] else str(self.ratio(row.name, 0))
        return row.name, f"{row.p50_ms:.3f}", f"{row.p90_ms:.3f}", str(row.runs), size, ratio


def _aligned(cells: tuple[str, ...], widths: list[int]) -> list[Any]:
    """Names to the left, figures to the right."""
    return [cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(zip(cells, widths, strict=True))]
