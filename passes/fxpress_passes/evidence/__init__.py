"""Facts measured on calibration data: lazy, cached by program and kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from fxpress_ir import Program

from ..contract import Progress
from .calibration import Batch, Calibration
from .histogram import Histogram
from .range import Range
from .ranges import Histograms, Ranges

Observer = TypeVar("Observer", Ranges, Histograms)

__all__ = ["Batch", "Calibration", "Evidence", "Histogram", "Range"]


class Evidence:
    """One calibration set and what was measured on it.

    A fact is cached by the hash of the program that it was measured on, so nothing stale is ever served; a pass that
    changes the graph makes the next question a new measurement.
    """

    def __init__(self, calibration: Calibration, progress: Progress | None = None) -> None:
        self.calibration = calibration
        self._progress = progress
        self._ranges: dict[str, Mapping[str, Range]] = {}
        self._histograms: dict[str, Mapping[str, Histogram]] = {}

    def first(self, program: Program) -> Batch:
        """The first calibration batch."""
        return self.calibration.first(program)

    def ranges(self, program: Program) -> Mapping[str, Range]:
        """Range of every floating-point value, by node name; memory holds one batch's live values."""
        if program.hash not in self._ranges:
            self._ranges[program.hash] = self._observed(Ranges(program), program).found
        return self._ranges[program.hash]

    def histograms(self, program: Program) -> Mapping[str, Histogram]:
        """Histogram of every floating-point value, by node name; memory holds them and one batch's live values."""
        if program.hash not in self._histograms:
            self._histograms[program.hash] = self._observed(Histograms(program), program).found
        return self._histograms[program.hash]

    def _observed(self, observer: Observer, program: Program) -> Observer:
        total = len(self.calibration)
        for done, batch in enumerate(self.calibration.batches(program), start=1):
            observer.observe(batch)
            if self._progress is not None:
                self._progress("calibrating", done, total)
        return observer
