"""Facts measured on calibration data: lazy, cached by program and kind, kept in a folder where one is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, islice
from typing import Any

from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError

from ..contract import Progress
from .calibration import Batch, Calibration
from .hessian_trace import hessian_traces
from .histogram import Histogram
from .input_norms import InputNorm, InputNorms
from .measurement import Measurement
from .range import Range
from .ranges import Fact, Histograms, Ranges
from .resume import other_data, resumed
from .second_moment import SecondMoment
from .second_moments import SecondMoments
from .state import Run, State
from .states import States, merge_calibration
from .tally import Tally
from .trace import Trace

__all__ = ["Batch", "Calibration", "Evidence", "Histogram", "Range", "SecondMoment", "States", "merge_calibration"]


class Evidence:
    """One calibration set and what was measured on it.

    A fact is cached by the hash of the program that it was measured on and by what else was asked, so nothing stale is ever
    served; a pass that changes the graph makes the next question a new measurement.

    Args:
        calibration: the data; None where `states` holds all that will be asked for.
        progress: called with ("calibrating", batches done, batches in all or 0 where that is not known).
        states: a folder of measurements: taken from there, gone on with and kept there.
    """

    def __init__(self, calibration: Calibration | None, progress: Progress | None = None, states: States | None = None) -> None:
        self._calibration, self._progress, self._states = calibration, progress, states
        self._input_norms: dict[str, Mapping[str, InputNorm]] = {}
        self._measured: dict[tuple[str, str, str], Mapping[str, Any]] = {}
        self._tallies: dict[tuple[str, str, str], Mapping[str, Tally]] = {}

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
        return self.measured(Measurement(Ranges.kind, Ranges), program)

    def histograms(self, program: Program) -> Mapping[str, Histogram]:
        """Histogram of every floating-point value, by node name; memory holds them and one batch's live values."""
        return self.measured(Measurement(Histograms.kind, Histograms), program)

    def second_moments(self, program: Program) -> Mapping[str, SecondMoment]:
        """E[x x^T] of what layers read, by `moment_key`; memory holds them and one batch's live values."""
        return self.measured(Measurement(SecondMoments.kind, SecondMoments), program)

    def traces(
        self,
        program: Program,
        loss: str,
        seed: int,
        weights: Sequence[str],
        *,
        draws: int = 16,
        most: int = 4,
        done: Callable[[int], None] | None = None,
    ) -> Mapping[str, Trace]:
        """Trace of the loss's Hessian by each of these weights; memory holds one batch's graph of a second derivative.

        Args:
            loss: `LOSSES`' name.
            draws: of random signs, a batch.
            most: batches that are looked at.
            done: called with the number of batches after each one, in the place of `progress`.
        """
        return self.measured(hessian_traces(weights, loss, draws=draws, seed=seed, most=most), program, done)

    def input_norms(self, program: Program) -> Mapping[str, InputNorm]:
        """Sums of squares of every layer's inputs, by node name; memory holds them and one batch's live values."""
        if program.hash not in self._input_norms:
            observer = InputNorms(program)
            for done, batch in enumerate(self.calibration.batches(program), start=1):
                observer.observe(batch)
                self._tell(done)
            self._input_norms[program.hash] = observer.found
        return self._input_norms[program.hash]

    def measured(self, wanted: Measurement[Fact], program: Program, done: Callable[[int], None] | None = None) -> Mapping[str, Fact]:
        """The answer to a question, from memory, from the folder, or measured; `done` as in `traces`."""
        key = (wanted.kind, program.hash, wanted.question)
        if key not in self._measured:
            self._measured[key] = self._observed(wanted, program, done or self._tell)
        return self._measured[key]

    def tallies(self, kind: str, program: Program, begin: str, most: int) -> dict[str, Tally]:
        """What earlier questions that begin so have found, over the same first `most` batches, whatever else they asked.

        Raises:
            CalibrationError: the folder holds such an answer over other data.
        """
        key = (kind, program.hash, begin)
        if key not in self._tallies:
            self._tallies[key] = self._read_tallies(kind, program, begin, most)
        found = dict(self._tallies[key])
        for (own, of, question), facts in self._measured.items():
            if (own, of) == (kind, program.hash) and question.startswith(begin):
                found |= facts
        return found

    def _read_tallies(self, kind: str, program: Program, begin: str, most: int) -> dict[str, Tally]:
        states = [] if self._states is None else self._states.read_all(kind, program.hash)
        states = [state for state in states if state.question.startswith(begin)]
        own = states if self._calibration is None else self._of_these_data(states, program, most)
        return {key: tally for state in own if state.complete for key, tally in state.found.items()}

    def _of_these_data(self, states: Sequence[State[Tally]], program: Program, most: int) -> list[State[Tally]]:
        """Those that have seen all of the first batches; where they have seen fewer they are left to be gone on with."""
        if not states:
            return []
        assert self._states is not None
        walks = list(accumulate(islice(self.calibration.batches(program), most), Run.then, initial=Run()))
        for state in states:
            if not set(state.runs) & set(walks):
                where = f"calibration state {str(self._states.path(state.kind, state.program, state.question))!r}"
                raise other_data(f"its {state.batches} batches were others than the first of these data", where)
        return [state for state in states if walks[-1] in state.runs]

    def _observed(self, wanted: Measurement[Fact], program: Program, done: Callable[[int], None]) -> Mapping[str, Fact]:
        if self._calibration is None and self._states is not None:
            return _stored(wanted, program, self._states)
        if self._states is not None:
            return resumed(wanted, program, self.calibration, self._states, done).found
        observer = wanted.begin(program, {})
        for count, batch in enumerate(wanted.batches(program, self.calibration), start=1):
            observer.observe(batch)
            done(count)
        return observer.found

    def _tell(self, done: int) -> None:
        if self._progress is not None:
            self._progress("calibrating", done, self.calibration.known)


def _stored(wanted: Measurement[Fact], program: Program, states: States) -> Mapping[str, Fact]:
    """What a folder holds, where there are no data to measure on.

    Raises:
        CalibrationError: it holds nothing of this program, or a run that was interrupted.
    """
    state = states.read(wanted.kind, program.hash, wanted.question)
    if state is None:
        what = f"holds no {wanted.kind} of program {program.hash[:12]}"
        raise CalibrationError(what, where=states.where, way_on="give the data, or the state of the same model and pipeline")
    if not state.complete:
        what = f"{wanted.kind} of program {program.hash[:12]} were interrupted after {state.batches} batches"
        raise CalibrationError(what, where=states.where, way_on="give the data to go on")
    found: Mapping[str, Fact] = state.found
    return found
