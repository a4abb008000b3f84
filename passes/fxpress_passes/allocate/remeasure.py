"""an answer, the same measured on what was built from it ==> how far prediction was off, and whether the budgets hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fxpress_ir.errors import PassError

from .answer import Answer
from .figures import figure, table
from .problem import ROUNDING, WHERE


@dataclass(frozen=True)
class Measured:
    """A figure and the interval that it lies in, as of repeated timing; both ends are the figure where it is exact."""

    value: float
    low: float
    high: float

    @classmethod
    def exactly(cls, value: float) -> Measured:
        return cls(value, value, value)


@dataclass(frozen=True)
class Remeasured:
    """An answer beside what was measured of it.

    Attributes:
        answer: with what was predicted.
        measured: by resource; each budget's is among them.
    """

    answer: Answer
    measured: Mapping[str, Measured]

    def error(self, resource: str) -> float:
        """How much more was measured than predicted, as a share of what was measured."""
        return 1 - self.answer.costs[resource] / self.measured[resource].value

    @property
    def broken(self) -> tuple[str, ...]:
        """The budgets that do not hold: the whole interval is above them."""
        limits = self.answer.budgets.items()
        return tuple(name for name, limit in limits if self.measured[name].low > limit + ROUNDING * abs(limit))

    def __str__(self) -> str:
        rows = []
        for name, found in self.measured.items():
            limit = self.answer.budgets.get(name)
            interval = f"{figure(name, found.low)} to {figure(name, found.high)}"
            held = "-" if limit is None else "no" if name in self.broken else "yes"
            most = "-" if limit is None else figure(name, limit)
            predicted = figure(name, self.answer.costs[name])
            rows.append((name, predicted, figure(name, found.value), interval, f"{self.error(name):+.1%}", most, held))
        return table(("resource", "predicted", "measured", "interval", "error", "budget", "holds"), rows)


def remeasured(answer: Answer, measured: Mapping[str, Measured]) -> Remeasured:
    """The two side by side.

    Raises:
        PassError: a budget was not measured, a resource was that is not predicted, or an interval does not have its figure.
    """
    for name in answer.budgets:
        if name not in measured:
            raise PassError(f"{name} has a budget and was not measured", where=WHERE, way_on=f"measure {name}")
    for name, found in measured.items():
        if name not in answer.costs:
            raise PassError(f"{name} was measured and not predicted", where=WHERE, way_on=f"one of {', '.join(answer.costs)}")
        if not found.low <= found.value <= found.high or found.value <= 0:
            what = f"{name} of {found.value:g} is not in its interval {found.low:g} to {found.high:g}, or not positive"
            raise PassError(what, where=WHERE, way_on="measure it again")
    return Remeasured(answer, dict(measured))
