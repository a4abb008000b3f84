"""smaller program, its parent ==> the smaller one, unless a measurement on the target does not find it faster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from fxpress_ir import Program

from .contract import Context, Refused


@dataclass(frozen=True)
class TimeRatio:
    """A program's time over its parent's, and the 95 % interval of it; both its ends are the median where none is known."""

    median: float
    low: float
    high: float

    @property
    def is_faster(self) -> bool:
        """Whether the whole interval is below 1."""
        return self.high < 1

    def __str__(self) -> str:
        return f"{self.median:.3f}" if self.low == self.high else f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


@runtime_checkable
class Interleaved(Protocol):
    """Measures two programs in turns, so that what disturbs one disturbs the other."""

    def ratio(self, program: Program, parent: Program) -> TimeRatio:
        """The time of `program` over that of `parent` on the target."""
        ...


Latency = Interleaved | Callable[[Program], float]
"""An `Interleaved`, or a function from a program to seconds of one run on the target; a backend's business, so it is given from outside."""


def time_ratio(program: Program, parent: Program, latency: Latency) -> TimeRatio:
    """How the two compare, with an interval where `latency` measures both in turns."""
    if isinstance(latency, Interleaved):
        return latency.ratio(program, parent)
    ratio = latency(program) / latency(parent)
    return TimeRatio(ratio, ratio, ratio)


def not_slower(smaller: Program, parent: Program, latency: Latency | None, context: Context) -> Program:
    """`smaller`, or `parent` where that is not found faster; the report says by how much, or why not.

    Args:
        latency: a pass's own; None for the pipeline's, and nothing is measured where that has none either.
    """
    measure = latency if latency is not None else context.latency
    if measure is None or smaller is parent:
        return smaller
    found = time_ratio(smaller, parent, measure)
    reason = f"made smaller it takes {found} of its parent's time"
    if found.is_faster:
        context.note(reason)
        return smaller
    context.refusals.append(Refused("program", reason, "it stays as it was; take more away, or align to what the target computes at once"))
    return parent
