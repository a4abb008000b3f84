"""Passes in order: checked before anything runs, looked at by instruments between any two."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fxpress_ir import Program, run_on_reals
from fxpress_ir.errors import FxpressError, PipelineError

from . import PASSES
from .contract import ANOTHER, Context, Pass, Progress
from .evidence import Calibration, Evidence, States
from .instruments import Compare, Dump, Instrument, Size, Step, Verify
from .latency import Latency
from .parse import find, parse

Evaluate = Callable[[Callable[..., Any]], float]
"""Takes a function that runs a batch of inputs and returns a figure of quality (higher is better)."""


@dataclass(frozen=True)
class Report:
    """What a pipeline did, step by step, and the quality before and after where `evaluate` was given."""

    steps: tuple[Step, ...]
    quality: tuple[float, float] | None = None

    def __str__(self) -> str:
        return "\n".join(map(_line, self.steps))


@dataclass(frozen=True)
class Result:
    """The program that came out, the report, and the program whose function it has.

    Attributes:
        original: the input, or what the last pass gave that brings another function, such as an adapter's.
    """

    program: Program
    report: Report
    original: Program


@dataclass(frozen=True)
class Pipeline:
    """An ordered tuple of passes.

    Raises (on construction):
        PipelineError: a pass stands before one that it has to follow.
    """

    passes: tuple[Pass, ...]

    def __init__(self, passes: Iterable[Pass]) -> None:
        if not isinstance(passes, Iterable):
            raise PipelineError(f"{passes!r} is not a list of passes", where="pipeline", way_on="give a list, e.g. [FoldBatchNorm()]")
        given = tuple(passes)
        for item in given:
            if not isinstance(item, Pass):
                raise PipelineError(f"{item!r} is not a Pass", where="pipeline", way_on="pass instances, e.g. FoldBatchNorm()")
        object.__setattr__(self, "passes", given)
        _check_order([part for item in given for part in item.parts()])

    @classmethod
    def parse(cls, text: str, passes: Sequence[type[Pass]] = PASSES) -> Pipeline:
        """The pipeline that `text` describes; give `passes` to make passes of your own known.

        Raises:
            PipelineError: syntax, an unknown pass or option, a bad value, a wrong order.
        """
        return cls(parse(text, passes))

    def __str__(self) -> str:
        return ", ".join(map(str, self.passes))

    def run(
        self,
        program: Program,
        calibration: Iterable[Any] | Calibration | None = None,
        evaluate: Evaluate | None = None,
        seed: int = 0,
        *,
        state: Path | str | None = None,
        dump: Path | str | None = None,
        instruments: Sequence[Instrument] = (),
        progress: Progress | None = None,
        latency: Latency | None = None,
    ) -> Result:
        """Run every pass.

        Args:
            program: what to start from; it is not changed.
            calibration: input tuples; needed by passes that measure. A one-shot iterator is spooled to disk.
            evaluate: called with ``program.run`` of the first and the last program; one that takes and gives integers
                gets and gives real numbers here.
            seed: of everything random in passes.
            state: a folder for what is measured: a run that was interrupted goes on after the last batch, a second one
                measures nothing again, and where the folder holds all that passes ask for, `calibration` may be left out.
            dump: a folder for the text of each program.
            instruments: more instruments, after verify, size and compare.
            progress: called with (label, done, total); total is 0 where it is not known.
            latency: the guard of passes that make a program smaller: what it does not find faster is not taken, and the report
                has the reason. ``fx.latency_on(target)`` is one.

        Raises:
            PipelineError: a pass does not take the stage that it would get.
            PassError, CalibrationError, VerifyError: as the passes and instruments say.
        """
        schedule = self.schedule(program.stage)
        evidence = _evidence(calibration, state, progress)
        looking: list[Instrument] = [Verify(), Size()]
        if evidence is not None and calibration is not None:
            looking.append(Compare(evidence.first(program), program))
        if dump is not None:
            looking.append(Dump(Path(dump), program))
        looking += instruments
        current, original, steps, losses = program, program, [], list[tuple[Program, Program]]()
        for position, (item, inserted) in enumerate(schedule):
            if progress is not None:
                progress(item.name, position, len(schedule))
            later = tuple(follower.name for follower, _ in schedule[position + 1 :])
            context = Context(evidence, seed, original=original, losses=tuple(losses), progress=progress, latency=latency, later=later)
            step = Step(str(item), item.promise, inserted)
            start = time.perf_counter()
            try:
                after = item.apply(current, context)
            except FxpressError as error:
                error.add_note(f"while running {item}")
                raise
            step.seconds = time.perf_counter() - start
            step.fired, step.stage = after is not current, after.stage
            step.refusals, step.notes = tuple(context.refusals), tuple(context.notes)
            after = after.noted(str(item)) if step.fired else after
            for instrument in looking:
                instrument.look(step, item, current, after if step.fired else current)
            if item.loses and step.fired:
                losses.append((current, after))
            current = after
            if step.fired and item.promise == ANOTHER:
                original = current
            steps.append(step)
        quality = None if evaluate is None else (evaluate(partial(run_on_reals, program)), evaluate(partial(run_on_reals, current)))
        return Result(current, Report(tuple(steps), quality), original)

    def schedule(self, stage: str) -> list[tuple[Pass, bool]]:
        """The passes as they will run from a program of `stage`, sums taken apart, what is needed put in (True)."""
        schedule: list[tuple[Pass, bool]] = []
        for item in (part for whole in self.passes for part in whole.parts()):
            present = {done.name for done, _ in schedule}
            schedule += [(find(name, PASSES)(), True) for name in item.needs if name not in present]
            schedule.append((item, False))
        for item, _ in schedule:
            if stage not in item.takes:
                message = f"takes {' or '.join(item.takes)} programs, but the one that it would get is {stage}"
                raise PipelineError(message, where=item.name, way_on="move it to where the program still is one")
            stage = item.gives or stage
        return schedule


def _evidence(calibration: Iterable[Any] | Calibration | None, state: Path | str | None, progress: Progress | None) -> Evidence | None:
    states = None if state is None else States(state)
    if calibration is None:
        return None if states is None else Evidence(None, progress, states)
    data = calibration if isinstance(calibration, Calibration) else Calibration(calibration)
    return Evidence(data, progress, states)


def _check_order(passes: Sequence[Pass]) -> None:
    for position, item in enumerate(passes):
        for late in passes[position + 1 :]:
            if late.name in item.after:
                raise PipelineError(f"{late.name} comes after {item.name}", where="pipeline", way_on=f"put {late.name} first")


_WORTH_TELLING = 0.95
"""Of the weights' bytes: below it the report names what they take with zeros left out."""


def _line(step: Step) -> str:
    error = "" if step.against_input is None else f", {step.against_input.sqnr:.1f} dB against {step.held_to}"
    inserted = ", inserted" if step.inserted else ""
    before, after = (round(size / 1024) for size in step.weight_bytes)
    size = f"{before} -> {after} KiB" if before != after else f"{after} KiB"
    what = "done" if step.fired else "nothing to do"
    stored = round(step.stored_bytes / 1024)
    if stored < after * _WORTH_TELLING:
        size += f" ({stored} KiB as bitmasks and values)"
    refused = "".join(f"\n    left alone {refusal}" for refusal in step.refusals)
    noted = "".join(f"\n    {fact}" for fact in step.notes)
    missed = "  BELOW ITS FLOOR" if step.promise_held is False else ""
    return f"{step.name}: {what}{inserted}, {step.seconds:.2f} s, {size}{error} [{step.promise}]{missed}{noted}{refused}"
