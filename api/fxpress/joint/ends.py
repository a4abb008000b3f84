"""what was aimed at and held a budget, and what did not ==> what to aim at next: as prediction was wrong, or else between the two."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt

_STEP = 1.1
"""What is aimed at changes by so much where prediction would have it stay, or go back."""


@dataclass(frozen=True)
class Ends:
    """Of one budget, in units of predictions.

    Attributes:
        low: the largest aim whose answer held the budget.
        high: the smallest whose answer broke it.
    """

    low: float | None = None
    high: float | None = None

    def narrowed(self, aim: float, broke: bool) -> Ends:
        """With what came of one more aim."""
        if broke:
            return replace(self, high=aim if self.high is None else min(self.high, aim))
        return replace(self, low=aim if self.low is None else max(self.low, aim))

    def next(self, corrected: float) -> float:
        """What to aim at, `corrected` being where the last answer would have held the budget exactly."""
        if self.low is not None and self.high is not None:
            return corrected if self.low < corrected < self.high else sqrt(self.low * self.high)
        if self.low is not None:
            return max(corrected, self.low * _STEP)
        return corrected if self.high is None else min(corrected, self.high / _STEP)
