"""state, data ==> the state after the last batch: batches that it has seen are held to it, the others are measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError

from .calibration import Calibration
from .measurement import Measurement
from .ranges import Fact
from .state import Run, State
from .states import States


def resumed(
    wanted: Measurement[Fact], program: Program, calibration: Calibration, states: States, done: Callable[[int], None]
) -> State[Fact]:
    """Measure what the folder's state of this program lacks, and keep it there.

    The state is written every `states.seconds`, at the end, and when something is raised on the way, so that the next run
    goes on after the last batch that was measured whole. All batches are read, those of the state only to compare them.

    Args:
        wanted: what to measure.
        done: called with the number of batches after each one.

    Raises:
        CalibrationError: the data are not those that the state has seen; they are unusable, or the folder is.
    """
    key = (wanted.kind, program.hash, wanted.question)
    known: State[Fact] = states.read(*key) or State(wanted.kind, program.hash, question=wanted.question)
    observer, run, state, written, last = wanted.begin(program, known.found), Run(), known, known, time.monotonic()
    where = f"calibration state {str(states.path(*key))!r}"
    try:
        for batch in wanted.batches(program, calibration):
            run = run.then(batch)
            if not _is_known(run, known, where):
                observer.observe(batch)
                state = State(wanted.kind, program.hash, observer.found, (run,), question=wanted.question)
            if state is not written and time.monotonic() - last >= states.seconds:
                states.write(state)
                written, last = state, time.monotonic()
            done(run.batches)
    except BaseException:
        if state is not written:
            states.write(state)
        raise
    if run not in state.runs:
        raise other_data(f"the data end after {run.batches} batches, the state has seen {_lengths(state)}", where)
    if not state.complete:
        state = replace(state, complete=True)
        states.write(state)
    return state


def _is_known(run: Run, known: State[Fact], where: str) -> bool:
    """Whether the walk is still over batches that the state has seen; of a merged state it stays so to the end."""
    merged, seen = len(known.runs) > 1, max(run.batches for run in known.runs)
    if merged and run.batches > seen:
        raise other_data(f"it joins {len(known.runs)} runs, and the data are of none of them", where)
    if not merged and run.batches == seen and run not in known.runs:
        raise other_data(f"its {seen} batches were others than the first {seen} of these data", where)
    return run.batches <= seen


def _lengths(state: State[Fact]) -> str:
    return " and ".join(str(run.batches) for run in state.runs)


def other_data(what: str, where: str) -> CalibrationError:
    """What is raised where data and a state differ."""
    return CalibrationError(what, where=where, way_on="calibrate on the same data, name another folder, or remove it to start anew")
