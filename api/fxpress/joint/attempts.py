"""model, target ==> losses and costs, measured once; budgets ==> an answer that was built, lowered and measured, and holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

from fxpress_backends.artifact import Artifact, lower
from fxpress_backends.bench import bench
from fxpress_backends.latency import Ratio, Table
from fxpress_ir import Program
from fxpress_ir.errors import InfeasibleError
from fxpress_passes import Context, Pass, PlaceQuantizers, QuantizeDyadic, Reconstruct, Recover, ToInteger
from fxpress_passes.allocate import Answer, Front, Measured, Milp, front
from fxpress_passes.allocate.infeasible import is_feasible
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.evidence.losses import Distance, divergence
from fxpress_passes.pipeline import Pipeline, Report
from fxpress_passes.quantize.precision import precision_of
from fxpress_passes.recover.distillation import relative_error
from torch import Tensor

from ..costs import MeasuredCosts
from ..model_source import Source
from ..never_slower import sizes_of
from .costs import Costs
from .goal import Budget
from .losses import Losses
from .measure import TargetMeasure
from .plan import JointPlan
from .prepare import prepared
from .problem import problem_of
from .search import Progress, improved
from .space import FAMILIES, Space

FLOAT = "onnx:float"
"""The target on which the float model is timed: what users have before."""
_SOLVINGS, _SECONDS = 4, 30.0
"""How often costs are written anew at the answer, in which they are exact, and how long one solving may take."""
_MARGIN = 0.995
"""Of what a broken budget leaves to be aimed at, so that rounding does not break it again."""


@dataclass(frozen=True)
class How:
    """Settings of a search.

    Attributes:
        families: what may be chosen.
        rounds: of improving the answer around itself.
        steps: of training on the float model's outputs, where more than bits changed; 0 for none.
        attempts: how often a budget that broke when measured is aimed at lower.
        repeats, threads: of latency measurements.
        cache: the folder of measured costs; the user's own by default.
    """

    families: tuple[str, ...] = FAMILIES
    rounds: int = 1
    steps: int = 300
    attempts: int = 4
    repeats: int = 50
    threads: int = 2
    cache: Path | None = None
    seed: int = 0


def _relative_error(original: Tensor, other: Tensor) -> Tensor:
    return relative_error(other, original)


def finishing(plan: JointPlan, original: Program, source: Source) -> list[Pass]:
    """The passes from a program that a plan cut to integers: layers below 8 bits are reconstructed, by GPTQ, which needs no steps."""
    loss = "kl" if source.scores else "mse"
    training: list[Pass] = [Recover(steps=plan.steps, loss=loss, teacher=original)] if plan.steps else []
    if all(precision_of(precision, "budget").weight == 8 for precision in plan.bits.values()):
        return [*training, QuantizeDyadic(bits=plan.entries)]
    return [*training, PlaceQuantizers(bits=plan.entries), Reconstruct(method="gptq"), ToInteger()]


@dataclass(frozen=True)
class Built:
    """What one answer became, and its size and, where asked for, seconds of a run.

    Attributes:
        ratio: of its time over the float model's, from the run that timed it.
    """

    plan: JointPlan
    program: Program
    passes: tuple[Pass, ...]
    report: Report
    measured: Mapping[str, Measured]
    ratio: Ratio | None


class Search:
    """One model, one target: measures once what every attempt needs.

    Attributes:
        float_size, float_seconds: as `Within` has them.
        whole: what the program becomes without any choice, at 8 bits; None where no latency is asked for.
    """

    whole: Built | None = None
    _made = 0

    def __init__(
        self,
        source: Source,
        captured: Program,
        data: Calibration,
        target: str,
        how: How,
        timed: bool,
        work: Path,
        progress: Progress | None = None,
    ) -> None:
        self._source, self._data, self._target, self._how, self._work, self._progress = source, data, target, how, work, progress
        self._sizes = sizes_of(captured, data.first(captured))
        self._original = prepared(captured, data)
        self._context = Context(Evidence(data), how.seed, progress=progress)
        self._space = Space.of(self._original, self._context, how.families)
        self.float_size, self.float_seconds = int(captured.cost().weight_bytes), None
        self._float: Artifact | None = None
        if timed:
            self._float = lower(captured, FLOAT, out=work / "float")
            (row,) = self._bench([self._float]).rows
            self.float_seconds = row.p50_ms / 1e3
        self._distance: Distance = divergence if source.scores else _relative_error
        self._losses = Losses(self._space, self._distance)
        singles = self._losses.singles()
        measured = MeasuredCosts(target, self._sizes, threads=how.threads, cache=how.cache) if timed else None
        costs = Costs.measured(self._space, TargetMeasure(self._space, target, data, measured))
        if timed:
            self.whole = self._built(self._space.nothing)
            seconds = self.whole.measured["latency"].value
            costs = costs.scaled(seconds / problem_of(self._space, singles, costs, {}).costs(self._space.nothing)["latency"])
        self._singles, self._costs = singles, costs

    def only(self, families: Sequence[str]) -> Search:
        """The same measurements with fewer families to choose from."""
        other = copy(self)
        other._space = self._space.only(families)
        other._losses = Losses(other._space, self._distance)
        other._work = self._work / "-".join(families)
        return other

    def within(self, budgets: Sequence[Budget]) -> tuple[Answer, Built]:
        """The first answer whose measured figures are within the budgets, or else that which is least above one.

        Raises:
            InfeasibleError: no choice holds the budgets, or none that is predicted to be as far below them as prediction was short.
        """
        asked = {budget.resource: budget.within(self._whole(budget.resource)) for budget in budgets}
        aims, best = dict(asked), list[tuple[float, Answer, Built]]()
        for _ in range(self._how.attempts):
            try:
                answer = self._solved(aims)
            except InfeasibleError:
                if not best:
                    raise
                break
            built = self._built(answer.chosen)
            found = {name: built.measured[name] for name in asked}
            best.append((max(found[name].low / limit for name, limit in asked.items()), replace(answer, budgets=asked), built))
            over = [name for name, limit in asked.items() if found[name].value > limit]
            if not over:
                return best[-1][1:]
            for name in over:
                # by how much prediction was short
                aims[name] = min(aims[name], answer.costs[name]) * asked[name] / found[name].value * _MARGIN
        return min(best, key=lambda each: each[0])[1:]

    def again(self, answer: Answer, steps: int) -> Built:
        """The same choices with longer training."""
        return self._built(answer.chosen, steps)

    def fronts(self, answer: Answer) -> dict[str, Front]:
        """By resource with a budget, the others held; without improvement around answers, and exact in costs at this one."""
        problem = problem_of(self._space, self._singles, self._costs, answer.budgets, answer.chosen)
        return {name: front(problem, name, points=12, solver=Milp(gap=1e-3, seconds=_SECONDS)) for name in answer.budgets}

    def predicted(self, answer: Answer) -> Answer:
        """The same choices with the sum of single losses, as fronts have it."""
        problem = problem_of(self._space, self._singles, self._costs, answer.budgets, answer.chosen)
        return Answer.of(problem, answer.chosen, answer.solver)

    def _solved(self, aims: Mapping[str, float]) -> Answer:
        """Solved again at each answer, in which costs are exact, until it stays."""
        solver = Milp(seconds=_SECONDS)
        at: Mapping[str, str] = self._first(aims)
        problem = problem_of(self._space, self._singles, self._costs, aims, at)
        answer = solver.solve(problem)
        for _ in range(_SOLVINGS):
            if answer.chosen == at:
                break
            at = answer.chosen
            local = problem_of(self._space, self._singles, self._costs, aims, at)
            if not is_feasible(local):
                break
            problem, answer = local, solver.solve(local)
        return improved(problem, answer, solver, self._losses.of, self._how.rounds, self._progress)

    def _first(self, aims: Mapping[str, float]) -> dict[str, str]:
        """Choices to write costs at first: nothing chosen, or the least size where budgets are too tight for what that gives back."""
        nothing = self._space.nothing
        if is_feasible(problem_of(self._space, self._singles, self._costs, aims, nothing)):
            return nothing
        size = self._costs.size
        return {name: min(choices, key=lambda one: size.get((name, one), 0.0)) for name, choices in self._space.units.items()}

    def _built(self, chosen: Mapping[str, str], steps: int | None = None) -> Built:
        plan, cut = self._space.built(chosen)
        if plan.changes_structure:
            plan = replace(plan, steps=self._how.steps if steps is None else steps)
        passes = finishing(plan, self._original, self._source)
        result = Pipeline(passes).run(cut, self._data, seed=self._how.seed, progress=self._progress)
        self._made += 1
        artifact = lower(result.program, self._target, out=self._work / f"artifact-{self._made}")
        measured, ratio = {"size": Measured.exactly(float(artifact.payload_size))}, None
        if self._float is not None and self.float_seconds is not None:
            table = self._bench([artifact, self._float])
            ratio = table.ratio(0, 1)
            ends = (ratio.median, min(ratio.low, ratio.median), max(ratio.high, ratio.median))
            # by the ratio, since the machine's speed is not the same from one run to the next
            measured["latency"] = Measured(*(share * self.float_seconds for share in ends))
        return Built(plan, result.program, tuple(passes), result.report, measured, ratio)

    def _bench(self, artifacts: Sequence[Artifact]) -> Table:
        return bench(artifacts, sizes=self._sizes, repeats=self._how.repeats, threads=self._how.threads)

    def _whole(self, resource: str) -> float:
        return float(self.float_size) if resource == "size" else float(self.float_seconds or 0.0)
