"""Facts measured on calibration data: lazy, cached by program and kind, kept in a folder where one is named."""

from __future__ import annotations

from collections.abc import Mapping

from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError

from ..contract import Progress
from .calibration import Batch, Calibration
from .histogram import Histogram
from .input_norms import InputNorm, InputNorms
from .range import Range
from .ranges import Fact, Histograms, Observer, Ranges
from .resume import resumed
from .second_moment import SecondMoment
from .second_moments import SecondMoments
from .states import States, merge_calibration

__all__ = ["Batch", "Calibration", "Evidence", "Histogram", "Range", "SecondMoment", "States", "merge_calibration"]


class Evidence:
    """One calibration set and what was measured on it.

    A fact is cached by the hash of the program that it was measured on, so nothing stale is ever served; a pass that
    changes the graph makes the next question a new measurement.

    Args:
        calibration: the data; None where `states` holds all that will be asked for.
        progress: called with ("calibrating", batches done, batches in all or 0 where that is not known).
        states: a folder of measurements: taken from there, gone on with and kept there.
    """

    def __init__(self, calibration: Calibration | None, progress: Progress | None = None, states: States | None = None) -> None:
        self._calibration, self._progress, self._states = calibration, progress, states
        self._ranges: dict[str, Mapping[str, Range]] = {}
        self._histograms: dict[str, Mapping[str, Histogram]] = {}
        self._input_norms: dict[str, Mapping[str, InputNorm]] = {}
        self._moments: dict[str, Mapping[str, SecondMoment]] = {}

    @property
    def calibration(self) -> Calibration:
        """The data.

        Raises:
            CalibrationError: there are none, only a state.
        """
        if self._calibration is None:
            raise CalibrationError("this pass needs calibration data, not only a state", way_on="give the data too")
        return self._calibration

    def first(self, program: Program) -> Batch:
        """The first calibration batch."""
        return self.calibration.first(program)

    def ranges(self, program: Program) -> Mapping[str, Range]:
        """Range of every floating-point value, by node name; memory holds one batch's live values."""
        if program.hash not in self._ranges:
            self._ranges[program.hash] = self._observed(Ranges, program)
        return self._ranges[program.hash]

    def histograms(self, program: Program) -> Mapping[str, Histogram]:
        """Histogram of every floating-point value, by node name; memory holds them and one batch's live values."""
        if program.hash not in self._histograms:
            self._histograms[program.hash] = self._observed(Histograms, program)
        return self._histograms[program.hash]

    def second_moments(self, program: Program) -> Mapping[str, SecondMoment]:
        """E[x x^T] of what layers read, by `moment_key`; memory holds them and one batch's live values."""
        if program.hash not in self._moments:
            self._moments[program.hash] = self._observed(SecondMoments, program)
        return self._moments[program.hash]

    def input_norms(self, program: Program) -> Mapping[str, InputNorm]:
        """Sums of squares of every layer's inputs, by node name; memory holds them and one batch's live values."""
        if program.hash not in self._input_norms:
            observer = InputNorms(program)
            for done, batch in enumerate(self.calibration.batches(program), start=1):
                observer.observe(batch)
                self._tell(done)
            self._input_norms[program.hash] = observer.found
        return self._input_norms[program.hash]

    def _observed(self, kind: type[Observer[Fact]], program: Program) -> Mapping[str, Fact]:
        if self._calibration is None and self._states is not None:
            return _stored(kind, program, self._states)
        if self._states is not None:
            return resumed(kind, program, self.calibration, self._states, self._tell).found
        observer = kind(program)
        for done, batch in enumerate(self.calibration.batches(program), start=1):
            observer.observe(batch)
            self._tell(done)
        return observer.found

    def _tell(self, done: int) -> None:
        if self._progress is not None:
            self._progress("calibrating", done, self.calibration.known)


def _stored(kind: type[Observer[Fact]], program: Program, states: States) -> Mapping[str, Fact]:
    """What a folder holds, where there are no data to measure on.

    Raises:
        CalibrationError: it holds nothing of this program, or a run that was interrupted.
    """
    state = states.read(kind.kind, program.hash)
    if state is None:
        what = f"holds no {kind.kind} of program {program.hash[:12]}"
        raise CalibrationError(what, where=states.where, way_on="give the data, or the state of the same model and pipeline")
    if not state.complete:
        what = f"{kind.kind} of program {program.hash[:12]} were interrupted after {state.batches} batches"
        raise CalibrationError(what, where=states.where, way_on="give the data to go on")
    found: Mapping[str, Fact] = state.found
    return found
