"""what a choice cost on each batch, or a sample each ==> their sum and number, which two runs can merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tally:
    """How many numbers there were, and their sum, which is NaN or infinite where one of them is."""

    count: int
    total: float

    @property
    def mean(self) -> float:
        return self.total / self.count

    def merge(self, other: Tally) -> Tally:
        """The numbers of both."""
        return Tally(self.count + other.count, self.total + other.total)


def tallies_to_arrays(tallies: Sequence[Tally]) -> dict[str, NDArray[Any]]:
    """``count``, int64 [tallies], and ``total``, float64 [tallies]."""
    return {
        "count": np.array([tally.count for tally in tallies], np.int64),
        "total": np.array([tally.total for tally in tallies], np.float64),
    }


def tallies_from_arrays(names: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tally]:
    """The inverse of `tallies_to_arrays`, by name.

    Raises:
        ValueError: the arrays are none of its.
    """
    wanted = {"count": (np.dtype(np.int64), (len(names),)), "total": (np.dtype(np.float64), (len(names),))}
    if {part: (array.dtype, array.shape) for part, array in arrays.items()} != wanted or (arrays["count"] < 1).any():
        raise ValueError("arrays of other types or shapes, or a sum of nothing")
    return dict(zip(names, map(Tally, arrays["count"].tolist(), arrays["total"].tolist()), strict=True))
