"""model, recipe ==> artifacts for all its targets, their bits compared and the recipe's floors checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path

import torch
from fxpress_backends import folder as folders
from fxpress_backends.artifact import Artifact, lower
from fxpress_backends.contract import Measured, Target
from fxpress_backends.registry import find
from fxpress_ir import Program, run_on_reals, to_steps, verify
from fxpress_ir.analysis.saturation import saturation
from fxpress_ir.errors import BackendError, CalibrationError, PipelineError
from fxpress_passes.contract import Pass, difference
from fxpress_passes.instruments import Step
from fxpress_passes.pipeline import Report
from torch import Tensor

from .data import calibration_for, drawn
from .model_source import Source
from .never_slower import latency_for, sizes_of
from .recipe import Recipe

Progress = Callable[[str, int, int], None]
TUNED = "tvm:native"
"""The target that describes this machine, on which kernels can be timed."""


@dataclass(frozen=True)
class Row:
    """One target.

    Attributes:
        folder: the artifact's.
        stage: of the program that was lowered.
        bytes: of what the runtime reads.
        same_bits: whether the artifact gave the integer program's bits on one batch; None for a float program, and for a target
            that does not run here.
        relative: largest difference from the lowered program's outputs over their largest value, on the same batch; None where
            the target does not run here.
    """

    target: str
    folder: str
    stage: str
    bytes: int
    same_bits: bool | None
    relative: float | None


@dataclass(frozen=True)
class Check:
    """One floor of the recipe: what was measured, what was asked, whether it holds."""

    name: str
    measured: float
    asked: float
    held: bool


@dataclass(frozen=True)
class Compressed:
    """What a compression made and measured.

    Attributes:
        program: the compressed program.
        report: the pipeline's.
        facts: statements about integer ranges that were proved.
        measured: `sqnr_db` against the captured program, with the adapters that were folded into it, `saturated` of an integer program,
            both on one batch, and `top1_drop` in points where the model brings `evaluate`.
    """

    program: Program = field(repr=False)
    report: Report
    facts: int
    measured: dict[str, float]
    rows: tuple[Row, ...]
    checks: tuple[Check, ...]

    @property
    def held(self) -> bool:
        """Every integer artifact that runs here gave the program's bits and every floor of the recipe is kept."""
        return all(row.same_bits is not False for row in self.rows) and all(check.held for check in self.checks)


def compress(
    source: Source,
    recipe: Recipe,
    out: Path,
    *,
    state: Path | None = None,
    dump: Path | None = None,
    tune: Mapping[str, int] | None = None,
    never_slower: str | None = None,
    sparse: bool = False,
    progress: Progress | None = None,
) -> Compressed:
    """Capture, run the pipeline, verify, lower for every target of the recipe, and compare on one batch.

    Artifacts are written below `out`, a folder a target, after every target was asked whether it takes its program. A
    target that does not take the compressed program's stage gets the last program whose stage it takes: ``onnx:float``
    gets the float program that went into quantisation.

    Args:
        state: a folder for what calibration measures, as ``Pipeline.run`` takes it.
        dump: a folder for the text of each program.
        tune: as `lower` takes it, for the target that describes this machine, ``tvm:native``.
        never_slower: a target on which passes measure that prune, factorise or fuse: what is not found faster there, by the 95 %
            interval of an interleaved run at the sizes of `tune` or of one sample of the calibration data, is not taken. The
            result then depends on this machine.
        sparse: as `lower` takes it, for every target.
        progress: called with a label, steps done and steps in all, 0 where that is not known.

    Raises:
        PipelineError: the recipe names no target, or a floor that cannot be measured; there is nothing to hold to `never_slower`.
        FxpressError: whatever a step raises.
    """
    tell = progress or (lambda label, done, total: None)
    cards = [find(name)[1] for name in dict.fromkeys(recipe.targets)]
    if tune is not None and TUNED not in recipe.targets:
        raise PipelineError("nothing to tune", where="compress", way_on=f"only {TUNED} can be: name it as a target")
    if not cards:
        raise PipelineError("no target", where="recipe", way_on="name one, e.g. targets: onnx:qlinear; `fxpress targets` lists them")
    if recipe.require.top1_drop is not None and source.evaluate is None:
        raise _unmeasurable("top1_drop", "the model brings no evaluate")
    for card in cards:
        folders.check_place(_place(out, card).resolve())
    tell("capturing", 0, 1)
    captured = source.capture()
    calibration = calibration_for(recipe.located_data(), source.calibration, captured, recipe.seed)
    batch = drawn(captured, recipe.seed) if calibration is None else calibration.first(captured)
    kept = _Kept(captured, cards)
    latency = None
    if never_slower is not None:
        sizes = {**sizes_of(captured, batch), **(tune or {})}
        latency = latency_for(recipe.pipeline, find(never_slower)[1], calibration, sizes, stage=captured.stage)
    try:
        result = recipe.pipeline.run(
            captured,
            calibration,
            source.evaluate,
            recipe.seed,
            state=state,
            dump=dump,
            instruments=[kept],
            progress=progress,
            latency=latency,
        )
    except CalibrationError as error:
        if calibration is not None or state is not None:
            raise
        way_on = "name data with --calibration, or calibration: in the recipe"
        raise CalibrationError(error.what, where=error.where, way_on=way_on) from error
    certificate = verify(result.program)
    measured = {"sqnr_db": difference(run_on_reals(result.original, *batch), run_on_reals(result.program, *batch)).sqnr}
    if result.program.stage not in ("float", "simulated"):
        measured["saturated"] = saturation(result.program, *to_steps(result.program.inputs, batch)).share
    if result.report.quality is not None:
        before, after = result.report.quality
        measured["top1_drop"] = 100 * (before - after)
    checks = tuple(_checks(recipe, measured))
    chosen = [(card, kept.program_for(card, result.program)) for card in cards]
    rows = []
    for position, (card, program) in enumerate(chosen):
        tell(f"lowering to {card.name}", position, len(chosen))
        own = [Measured(name, value) for name, value in measured.items() if program is result.program and isfinite(value)]
        timed = tune if card.name == TUNED else None
        artifact = lower(
            program, card.name, _place(out, card), measured=own, recipe=recipe.text(), seed=recipe.seed, tune=timed, sparse=sparse
        )
        rows.append(_row(card, artifact, program, batch))
    return Compressed(result.program, result.report, len(certificate.facts), measured, tuple(rows), checks)


class _Kept:
    """An instrument that keeps the last program of each stage that some target takes."""

    def __init__(self, captured: Program, cards: list[Target]) -> None:
        self._stages = {stage for card in cards for stage in card.stages}
        self._latest: dict[str, Program] = {}
        self._keep(captured)

    def look(self, step: Step, done: Pass, before: Program, after: Program) -> None:
        self._keep(after)

    def _keep(self, program: Program) -> None:
        self._latest.pop(program.stage, None)
        if program.stage in self._stages:
            self._latest[program.stage] = program

    def program_for(self, card: Target, result: Program) -> Program:
        """The result, or else the latest program whose stage `card` takes.

        Raises:
            BackendError: there is none, or the target cannot take it; the message names the first node.
        """
        where = f"target {card.name!r}"
        programs = [result, *reversed(self._latest.values())]
        program = next((program for program in programs if program.stage in card.stages), None)
        if program is None:
            message = f"takes {' and '.join(card.stages)} programs, the pipeline made none, its result is {result.stage}"
            raise BackendError(message, where=where, way_on="add quantize-dyadic to the pipeline, or choose another target")
        for refusal in find(card.name)[0].backend().legalize(program, card):
            raise BackendError(refusal.reason, where=f"{where}, {refusal.node}", way_on=refusal.way_on)
        return program


def _place(out: Path, card: Target) -> Path:
    return out / card.name.replace(":", "-")


def _checks(recipe: Recipe, measured: dict[str, float]) -> Iterator[Check]:
    for name, asked in asdict(recipe.require).items():
        if asked is None:
            continue
        if name not in measured:
            raise _unmeasurable(name, "the result is no integer program")
        value = measured[name]
        yield Check(name, value, asked, value >= asked if name == "sqnr_db" else value <= asked)


def _unmeasurable(name: str, why: str) -> PipelineError:
    return PipelineError(f"{name} cannot be measured: {why}", where="recipe: require", way_on="leave it out")


def _row(card: Target, artifact: Artifact, program: Program, batch: tuple[Tensor, ...]) -> Row:
    if not card.runs_here:
        return Row(artifact.target, str(artifact.folder), program.stage, artifact.payload_size, None, None)
    inputs = to_steps(program.inputs, batch)
    found = tuple(torch.from_numpy(value) for value in artifact.run(*inputs))
    moved = difference(program.run(*inputs), found)
    same = None if program.stage in ("float", "simulated") else moved.equal
    return Row(artifact.target, str(artifact.folder), program.stage, artifact.payload_size, same, moved.relative)
