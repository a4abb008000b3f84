"""model, budgets, floor ==> an artifact that holds them, measured, and the plan that replays it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from pathlib import Path

import torch
from fxpress_backends import folder as folders
from fxpress_backends.artifact import Artifact, lower
from fxpress_backends.contract import Measured as Stated
from fxpress_backends.contract import Profiled, Target
from fxpress_backends.latency import Ratio
from fxpress_backends.registry import find
from fxpress_ir import Program, run_on_reals, to_steps
from fxpress_ir.errors import ArtifactError, BackendError, CalibrationError, PipelineError
from fxpress_passes import Context
from fxpress_passes.allocate import Answer, Front, Remeasured, remeasured
from fxpress_passes.contract import difference
from fxpress_passes.evidence import Batch, Calibration, Evidence
from fxpress_passes.pipeline import Pipeline, Report

from ..compress import Progress
from ..data import DISTILLED, Data, calibration_for
from ..model_source import Source
from .attempts import Search
from .built import Built, How, finishing
from .goal import Budget
from .plan import JointPlan
from .prepare import prepared
from .refusals import Refusal

_WHERE = "compress"


@dataclass(frozen=True)
class Within:
    """What a compression under budgets made and measured.

    Attributes:
        artifact: in its folder.
        program: what it was lowered from.
        plan: replays the decisions without the search.
        report: of the passes that followed it.
        found: the answer beside what was measured.
        predicted: the answer with the sum of single choices' losses, as fronts have it.
        fronts: by resource with a budget, the best answers predicted over a sweep of it.
        float_size, float_seconds: of the float model's weights in bytes, and of one of its runs on `FLOAT`; None where not measured.
        size_ratio: bytes of the payload over `float_size`.
        latency_ratio: the artifact's time over the float model's, from one interleaved run; None where no latency is budgeted.
        accuracy: before and after, from 0 to 1, where the model brings `evaluate`.
        floor: the change of accuracy that was asked for at least, in points.
        same_bits: whether the artifact gave the program's bits on one batch; None where the target does not run here.
        refusals: what could not be chosen, and why.
    """

    artifact: Artifact
    program: Program
    plan: JointPlan
    report: Report
    found: Remeasured
    predicted: Answer
    fronts: Mapping[str, Front]
    float_size: int
    float_seconds: float | None
    size_ratio: float
    latency_ratio: Ratio | None
    accuracy: tuple[float, float] | None
    floor: float | None
    same_bits: bool | None
    refusals: tuple[Refusal, ...]

    @property
    def points(self) -> float | None:
        """The change of accuracy in points of 100."""
        return None if self.accuracy is None else _points(self.accuracy)

    @property
    def held(self) -> bool:
        """Every budget and the floor hold as measured, and the bits are the program's."""
        return self.same_bits is not False and not self.floor_missed and not self.found.broken

    @property
    def floor_missed(self) -> bool:
        """The accuracy fell by more than was asked for."""
        return self.floor is not None and not (self.points is not None and self.points >= self.floor - 1e-9)


def compress_within(
    source: Source,
    budgets: Sequence[Budget],
    floor: float | None,
    target: str,
    out: Path,
    data: Data | None = None,
    how: How | None = None,
    progress: Progress | None = None,
) -> Within:
    """The artifact that loses least within the budgets, below `out` in a folder named as the target.

    Bits, ranks, channels and blocks are chosen by one integer program, from losses measured on calibration data and costs measured
    on the target; the answer is built, trained on the float model's outputs where its structure changed, quantised, lowered, and
    measured against the float model in turns. A budget that broke is aimed at lower, and chosen for again. Where the floor is
    missed, training is made four times as long, once.

    Args:
        data: calibration data; None for the model's own, or else distilled ones.

    Raises:
        InfeasibleError: no choice holds the budgets; the line says which bind and the nearest that can be held.
        PipelineError: no budget; a floor where the model brings no `evaluate`.
        BackendError: the target is unknown, takes no integers, or latency is budgeted and it does not run here.
        CalibrationError: no calibration data, nor batch norms to distil any from.
    """
    how = how or How()
    card = _checked(source, budgets, floor, target)
    if not budgets:
        raise PipelineError("no budget", where=_WHERE, way_on="give one, e.g. latency=0.77x or size=0.15x")
    place = out / card.name.replace(":", "-")
    folders.check_place(place.resolve())
    captured, calibration = _opened(source, data, how.seed)
    with tempfile.TemporaryDirectory(prefix="fxpress-within-") as work:
        timed = any(budget.resource == "latency" for budget in budgets)
        search = Search(source, captured, calibration, target, how, timed, Path(work), progress)
        answer, built = search.within(budgets)
        before = None if source.evaluate is None else source.evaluate(partial(run_on_reals, captured))
        accuracy = _accuracy(source, before, built)
        if floor is not None and accuracy is not None and built.plan.steps and _points(accuracy) < floor:
            longer = search.again(answer, 4 * built.plan.steps)
            better = _accuracy(source, before, longer)
            if better is not None and better[1] > accuracy[1]:
                # the same kernels, so what was measured of them holds for it
                built, accuracy = replace(longer, measured=built.measured, ratio=built.ratio, seconds=built.seconds), better
        found, fronts = remeasured(answer, built.measured), search.fronts(answer)
    stated = [Stated("top1_change", _points(accuracy))] if accuracy and isfinite(_points(accuracy)) else []
    artifact = lower(built.program, target, place, measured=stated, recipe=built.plan.to_json(), seed=how.seed)
    same = _same_bits(artifact, built.program, calibration.first(captured)) if card.runs_here else None
    _write(plan_file(place), built.plan)
    return Within(
        artifact,
        built.program,
        built.plan,
        built.report,
        found,
        search.predicted(answer),
        fronts,
        search.float_size,
        search.float_seconds,
        artifact.payload_size / search.float_size,
        built.ratio,
        accuracy,
        floor,
        same,
        search.refusals,
    )


def plan_file(place: Path) -> Path:
    """Where the plan of an artifact's folder is, beside it."""
    return place.with_name(f"{place.name}.plan.json")


def replay(
    source: Source,
    plan: JointPlan,
    target: str,
    out: Path,
    data: Data | None = None,
    seed: int | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """The artifact of a plan, without the search: the same passes on the same model and data, and so the same bits.

    Args:
        data: calibration data, as `compress_within` has them.
        seed: None for the plan's.

    Raises:
        PassError: the plan was made for another model, on other calibration data or with another seed.
        BackendError, CalibrationError: as `compress_within`.
    """
    if seed is not None:
        plan.check_seed(seed)
    card = _checked(source, (), None, target)
    place = out / card.name.replace(":", "-")
    folders.check_place(place.resolve())
    captured, calibration = _opened(source, data, plan.seed)
    original = prepared(captured, calibration)
    cut = plan.cut(original, Context(Evidence(calibration), plan.seed))
    passes = finishing(plan, original, source)
    program = Pipeline(passes).run(cut, calibration, seed=plan.seed, progress=progress).program
    return lower(program, target, place, recipe=plan.to_json(), seed=plan.seed)


def _opened(source: Source, data: Data | None, seed: int) -> tuple[Program, Calibration]:
    captured = source.capture()
    calibration = calibration_for(data, source.calibration, captured, seed)
    if calibration is None:
        try:
            calibration = calibration_for(Data(DISTILLED), None, captured, seed)
        except CalibrationError as error:
            what = f"the model brings no calibration data, and {error.what}"
            raise CalibrationError(what, where=_WHERE, way_on="name some with --calibration") from error
    assert calibration is not None
    return captured, calibration


def _accuracy(source: Source, before: float | None, built: Built) -> tuple[float, float] | None:
    return None if source.evaluate is None or before is None else (before, source.evaluate(partial(run_on_reals, built.program)))


def _same_bits(artifact: Artifact, program: Program, batch: Batch) -> bool:
    inputs = to_steps(program.inputs, batch)
    return difference(program.run(*inputs), tuple(map(torch.from_numpy, artifact.run(*inputs)))).equal


def _write(path: Path, plan: JointPlan) -> None:
    fresh = path.with_name(f".{path.name}.part")
    try:
        fresh.write_text(plan.to_json(), encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        raise ArtifactError(f"cannot be written: {error.strerror}", where=f"plan {str(path)!r}", way_on="name another folder") from error


def _points(accuracy: tuple[float, float]) -> float:
    return 100 * (accuracy[1] - accuracy[0])


def _checked(source: Source, budgets: Sequence[Budget], floor: float | None, target: str) -> Target:
    card = find(target)[1]
    if "integer" not in card.stages:
        takes = " and ".join(card.stages)
        raise BackendError(f"takes {takes} programs, this makes integers", where=f"target {target!r}", way_on="e.g. onnx:qlinear")
    if any(budget.resource == "latency" for budget in budgets):
        where, way_on = f"target {target!r}", "give a budget of size alone"
        if not card.runs_here:
            raise BackendError("this machine does not run it", where=where, way_on=way_on)
        if not isinstance(find(target)[0].backend(), Profiled):
            raise BackendError("it has no kernels to time", where=where, way_on=way_on)
    if floor is not None and source.evaluate is None:
        raise PipelineError(
            "accuracy cannot be measured: the model brings no evaluate", where=_WHERE, way_on="leave the floor out, or give a zoo entry"
        )
    return card
