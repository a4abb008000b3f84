"""model, budgets, floor ==> an artifact that holds them, measured, and the plan that replays it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fxpress_backends import folder as folders
from fxpress_backends.artifact import Artifact, lower
from fxpress_backends.contract import Measured as Stated
from fxpress_backends.contract import Target
from fxpress_backends.latency import Ratio
from fxpress_backends.registry import find
from fxpress_ir import Program, run_on_reals
from fxpress_ir.errors import BackendError, CalibrationError, PipelineError
from fxpress_passes import Context
from fxpress_passes.allocate import Front, Remeasured, remeasured
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.pipeline import Pipeline, Report

from ..compress import Progress
from ..data import DISTILLED, Data, calibration_for
from ..model_source import Source
from .attempts import How, Search, finishing
from .goal import Budget
from .plan import JointPlan
from .prepare import prepared

_WHERE = "compress"
PLAN = "plan.json"
"""The plan's file, beside the artifact's folder."""


@dataclass(frozen=True)
class Within:
    """What a compression under budgets made and measured.

    Attributes:
        artifact: in its folder.
        program: what it was lowered from.
        plan: replays the decisions without the search.
        report: of the passes that followed it.
        found: the answer beside what was measured.
        fronts: by resource with a budget, the best answers predicted over a sweep of it.
        float_size, float_seconds: of the float model's weights in bytes, and of one of its runs on `FLOAT`; None where not measured.
        size_ratio: bytes of the payload over `float_size`.
        latency_ratio: the artifact's time over the float model's, from one interleaved run; None where no latency is budgeted.
        accuracy: before and after, from 0 to 1, where the model brings `evaluate`.
        floor: the change of accuracy that was asked for at least, in points.
    """

    artifact: Artifact
    program: Program
    plan: JointPlan
    report: Report
    found: Remeasured
    fronts: Mapping[str, Front]
    float_size: int
    float_seconds: float | None
    size_ratio: float
    latency_ratio: Ratio | None
    accuracy: tuple[float, float] | None
    floor: float | None

    @property
    def points(self) -> float | None:
        """The change of accuracy in points of 100."""
        return None if self.accuracy is None else _points(self.accuracy)

    @property
    def held(self) -> bool:
        """Every budget and the floor hold as measured."""
        kept = self.floor is None or (self.points is not None and self.points >= self.floor - 1e-9)
        return kept and not self.found.broken


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
    captured, calibration = _opened(source, data, how)
    with tempfile.TemporaryDirectory(prefix="fxpress-within-") as work:
        timed = any(budget.resource == "latency" for budget in budgets)
        search = Search(source, captured, calibration, target, how, timed, Path(work), progress)
        answer, built = search.within(budgets)
        accuracy = _accuracy(source, captured, built.program)
        if floor is not None and accuracy is not None and built.plan.changes_structure and _points(accuracy) < floor:
            longer = search.again(answer, 4 * how.steps)
            better = _accuracy(source, captured, longer.program)
            if better is not None and better[1] > accuracy[1]:
                built, accuracy = longer, better
        points = [Stated("top1_change", _points(accuracy))] if accuracy else []
        recipe = "\n".join(map(str, built.passes))
        artifact = lower(built.program, target, place, measured=points, recipe=recipe, seed=how.seed)
        (out / PLAN).write_text(built.plan.to_json(), encoding="utf-8")
        return Within(
            artifact,
            built.program,
            built.plan,
            built.report,
            remeasured(answer, built.measured),
            search.fronts(budgets, answer.chosen),
            search.float_size,
            search.float_seconds,
            built.measured["size"].value / search.float_size,
            built.ratio,
            accuracy,
            floor,
        )


def replay(source: Source, plan: JointPlan, target: str, out: Path, data: Data | None = None, how: How | None = None) -> Artifact:
    """The artifact of a plan, without the search: the same passes on the same model.

    Raises:
        PassError: the plan was made for another model.
        BackendError, CalibrationError: as `compress_within`.
    """
    how = how or How()
    card = _checked(source, (), None, target)
    place = out / card.name.replace(":", "-")
    folders.check_place(place.resolve())
    captured, calibration = _opened(source, data, how)
    original = prepared(captured, calibration)
    cut = plan.cut(original, Context(Evidence(calibration), how.seed))
    passes = finishing(plan, original, source)
    program = Pipeline(passes).run(cut, calibration, seed=how.seed).program
    return lower(program, target, place, recipe="\n".join(map(str, passes)), seed=how.seed)


def _opened(source: Source, data: Data | None, how: How) -> tuple[Program, Calibration]:
    captured = source.capture()
    calibration = calibration_for(data, source.calibration, captured, how.seed)
    if calibration is None:
        try:
            calibration = calibration_for(Data(DISTILLED), None, captured, how.seed)
        except CalibrationError as error:
            what = f"the model brings no calibration data, and {error.what}"
            raise CalibrationError(what, where=_WHERE, way_on="name some with --calibration") from error
    assert calibration is not None
    return captured, calibration


def _accuracy(source: Source, captured: Program, program: Program) -> tuple[float, float] | None:
    if source.evaluate is None:
        return None
    return source.evaluate(partial(run_on_reals, captured)), source.evaluate(partial(run_on_reals, program))


def _points(accuracy: tuple[float, float]) -> float:
    return 100 * (accuracy[1] - accuracy[0])


def _checked(source: Source, budgets: Sequence[Budget], floor: float | None, target: str) -> Target:
    card = find(target)[1]
    if "integer" not in card.stages:
        takes = " and ".join(card.stages)
        raise BackendError(f"takes {takes} programs, this makes integers", where=f"target {target!r}", way_on="e.g. onnx:qlinear")
    if any(budget.resource == "latency" for budget in budgets) and not card.runs_here:
        raise BackendError("this machine does not run it", where=f"target {target!r}", way_on="give a budget of size alone")
    if floor is not None and source.evaluate is None:
        raise PipelineError("accuracy cannot be measured: the model brings no evaluate", where=_WHERE, way_on="leave the floor out")
    return card
