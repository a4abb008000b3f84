"""What stands between two passes: verify, size, compare, dump. A pass knows none of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from fxpress_ir import Program, run_on_reals, text, verify
from fxpress_ir.analysis.sparsity import stored_bytes
from fxpress_ir.errors import CalibrationError, FxpressError, PassError
from torch import Tensor

from .contract import ANOTHER, Difference, Lossy, Pass, Promise, Refused, difference
from .not_finite import first_not_finite


@dataclass
class Step:
    """One pass of a run, as the report shows it; the pipeline and its instruments fill it in.

    Attributes:
        name: the pass as text.
        promise: what the pass promises about numbers.
        inserted: the pipeline put it in because a later pass needs it.
        fired: it returned another program.
        stage: after the pass.
        seconds: time that the pass itself took.
        weight_bytes, macs: (before, after).
        stored_bytes: of the weights after the pass, each as it is or as bitmask and values, whichever is smaller.
        against_previous, against_input: how outputs moved on the first calibration batch; None without calibration.
        held_to: what `against_input` is against: the input, or the result of a pass before that brings another function.
        promise_held: None where nothing was compared.
        refusals: nodes that the pass left alone, and why.
        notes: facts that the pass put down for the report.
    """

    name: str
    promise: Promise
    inserted: bool = False
    fired: bool = False
    stage: str = ""
    seconds: float = 0.0
    weight_bytes: tuple[int, int] = (0, 0)
    macs: tuple[int, int] = (0, 0)
    stored_bytes: int = 0
    against_previous: Difference | None = None
    against_input: Difference | None = None
    held_to: str = "the input"
    promise_held: bool | None = None
    refusals: tuple[Refused, ...] = field(default=())
    notes: tuple[object, ...] = field(default=())


_FAULT = "this is a fault of the pass"


class Instrument(Protocol):
    """Looks at a pass's input and result and notes in the step what it saw; may raise."""

    def look(self, step: Step, done: Pass, before: Program, after: Program) -> None: ...


class Verify:
    """Holds every program between passes to the rules of its stage, and the stage to what the pass declares.

    Raises:
        PassError: the pass broke a rule.
    """

    def look(self, step: Step, done: Pass, before: Program, after: Program) -> None:
        if after is before:
            return
        try:
            verify(after)
        except FxpressError as error:
            raise PassError(f"its result breaks a rule: {error}", where=done.name, way_on=_FAULT) from error
        stage = done.gives or before.stage
        if after.stage != stage and (done.gives, after.stage) != ("integer", "mixed"):
            raise PassError(f"its result is a {after.stage} program, not a {stage} one", where=done.name, way_on=_FAULT)


class Size:
    """Bytes of the weights and multiply-accumulates, before and after."""

    def __init__(self) -> None:
        self._stored: int | None = None

    def look(self, step: Step, done: Pass, before: Program, after: Program) -> None:
        if self._stored is None or after is not before:
            self._stored = stored_bytes(after.tensors)
        step.stored_bytes = self._stored
        first, second = before.cost(), after.cost()
        step.weight_bytes = (first.weight_bytes, second.weight_bytes)
        step.macs = (first.macs, second.macs)


class Compare:
    """Runs each new program on one batch, against the program before it and against the first, integer ends as real numbers.

    What follows a pass that brings another function, such as an adapter's, is held to that one.

    Raises:
        PassError: an `Exact` or `Close` promise was broken, or the outputs have other shapes; a missed `Lossy` floor is
            noted, not raised.
        CalibrationError: a promise was broken in values alone that were NaN or infinite before: the data are no test of it.
    """

    def __init__(self, batch: tuple[Tensor, ...], original: Program) -> None:
        self._batch = batch
        self._original = self._previous = run_on_reals(original, *batch)
        self._held_to = Step.held_to

    def look(self, step: Step, done: Pass, before: Program, after: Program) -> None:
        if after is not before:
            previous, outputs = self._previous, run_on_reals(after, *self._batch)
            shapes, expected = ([list(value.shape) for value in values] for values in (outputs, self._previous))
            if shapes != expected:
                raise PassError(f"outputs have shapes {shapes}, had {expected} before", where=done.name, way_on=_FAULT)
            step.against_previous, self._previous = difference(self._previous, outputs), outputs
            step.promise_held = done.promise.held(step.against_previous)
        step.against_input, step.held_to = difference(self._original, self._previous), self._held_to
        if after is not before and done.promise == ANOTHER:
            self._original, self._held_to = self._previous, f"the result of {done.name}"
        if step.promise_held is False and not isinstance(done.promise, Lossy):
            found = step.against_previous
            assert found is not None
            self._check_finite(done, before, previous, self._previous)
            what = f"promised {done.promise}, but outputs moved by {found.relative:.3g} of their largest value"
            raise PassError(what, where=done.name, way_on=_FAULT)

    def _check_finite(self, done: Pass, before: Program, previous: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> None:
        """NaN is compared with nothing: a promise that holds everywhere else is not the pass's to keep there."""
        elsewhere = tuple(torch.where(old.isfinite(), new, old) for old, new in zip(previous, outputs, strict=True))
        lost = sum(int((~value.isfinite()).sum()) for value in previous)
        if not lost or not done.promise.held(difference(previous, elsewhere)):
            return
        where = first_not_finite(before, self._batch) if before.stage == "float" else None
        node, kind = where or ("an output", "NaN")
        what = (
            f"before {done.name} already {lost} of {sum(value.numel() for value in previous)} output values are NaN or infinite "
            f"on the first calibration batch, {kind} first in {node}"
        )
        way_on = "repair the model or take the samples out (a plain softmax of a query that sees no key gives NaN; a safe one 0)"
        raise CalibrationError(what, where=f"{done.name}, node {node}" if where else done.name, way_on=way_on)


class Dump:
    """Writes the text of every program: ``00-input.txt``, ``01-remove-noops.txt``, ...

    Raises:
        PassError: the folder or a file in it cannot be written.
    """

    def __init__(self, folder: Path, original: Program) -> None:
        self._folder, self._count = folder, 0
        self._write("input", original)

    def look(self, step: Step, done: Pass, before: Program, after: Program) -> None:
        self._write(done.name, after)

    def _write(self, name: str, program: Program) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / f"{self._count:02}-{name}.txt").write_text(text(program) + "\n")
        except OSError as error:
            raise PassError(f"cannot write: {error.strerror}", where=str(self._folder), way_on="dump into a writable folder") from error
        self._count += 1
