"""Facts measured on calibration data: lazy, cached by program and kind."""

from __future__ import annotations

from collections.abc import Mapping

from fxpress_ir import Program

from ..contract import Progress
from .calibration import Batch, Calibration
from .ranges import Range, Ranges

__all__ = ["Batch", "Calibration", "Evidence", "Range"]


class Evidence:
    """One calibration set and what was measured on it.

    A fact is cached by the hash of the program that it was measured on, so nothing stale is ever served; a pass that
    changes the graph makes the next question a new measurement.
    """

    def __init__(self, calibration: Calibration, progress: Progress | None = None) -> None:
        self.calibration = calibration
        self._progress = progress
        self._ranges: dict[str, Mapping[str, Range]] = {}

    def first(self, program: Program) -> Batch:
        """The first calibration batch."""
        return self.calibration.first(program)

    def ranges(self, program: Program) -> Mapping[str, Range]:
        """Range of every floating-point value, by node name; memory holds one batch's live values."""
        if program.hash not in self._ranges:
            measure, total = Ranges(program), len(self.calibration)
            for done, batch in enumerate(self.calibration.batches(program), start=1):
                measure.observe(batch)
                if self._progress is not None:
                    self._progress("calibrating", done, total)
            self._ranges[program.hash] = measure.found
        return self._ranges[program.hash]
