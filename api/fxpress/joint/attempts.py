"""model, target ==> losses and costs, measured once; budgets ==> an answer that was built, lowered and measured, and holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from math import ceil
from pathlib import Path

from fxpress_backends.artifact import Artifact, lower
from fxpress_backends.bench import bench
from fxpress_backends.latency import Table
from fxpress_backends.work import sizes_at
from fxpress_ir import Program
from fxpress_ir.errors import InfeasibleError
from fxpress_passes import Context, Recover
from fxpress_passes.allocate import Answer, Front, Measured
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.evidence.losses import Distance, divergence
from fxpress_passes.pipeline import Pipeline
from fxpress_passes.recover.distillation import relative_error
from torch import Tensor

from ..costs import MeasuredCosts
from ..model_source import Source
from ..never_slower import sizes_of
from .aside import Judge
from .built import Built, How, Weighing, finishing, training_loss
from .chooser import Chooser
from .costs import Costs
from .ends import Ends
from .goal import Budget
from .losses import Losses
from .measure import TargetMeasure
from .prepare import prepared
from .problem import problem_of
from .refusals import Refusal
from .search import Progress
from .space import Space

FLOAT = "onnx:float"
"""The target on which the float model is timed: what users have before."""
_MARGIN = 0.995
"""Of what is aimed at next, so that rounding does not break a budget again."""
_RUNS, _MOST_RUNS, _TURN = 5, 100, 5e-3
"""Runs a turn at least and at most, and seconds that a turn should take."""
_PROCESSES = 2
"""In which each program is timed: on small ones, processes differ by more than what is chosen between."""
_SHORT, _SHORTLY = 30, 15
"""Steps of training before a single choice is measured, and how many answers' steps all of them may take together."""
_USED = 0.95
"""Of a budget: an answer that uses less is asked for again with more, since prediction was too careful."""


def _relative_error(original: Tensor, other: Tensor) -> Tensor:
    return relative_error(other, original)


def _excess(built: Built, asked: Mapping[str, float]) -> float:
    """By how much what was measured is above a budget, the worst of them; 1 for all that hold the budgets."""
    return max(1.0, *(built.measured[name].value / limit for name, limit in asked.items()))


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
        self._sizes = sizes_at(captured, {**sizes_of(captured, data.first(captured)), **how.sizes}, "compress")
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
        self._judge = Judge(self._original, data, self._distance)
        untrained = Losses(self._space, self._distance).singles()
        singles = Losses(self._space, self._distance, trained=self._shortly).singles() if self._short else untrained
        measured = MeasuredCosts(target, self._sizes, threads=how.threads, cache=how.cache) if timed else None
        costs = Costs.measured(self._space, TargetMeasure(self._space, target, data, measured, self._bench))
        if timed:
            self.whole = self._built(self._space.nothing, data)
            seconds = self.whole.measured["latency"].value
            costs = costs.scaled(seconds / problem_of(self._space, singles, costs, {}).costs(self._space.nothing)["latency"])
        self._chooser = Chooser(self._space, singles, untrained, costs, self._distance, how, progress)
        self._candidates = dict[frozenset[tuple[str, str]], Built]()
        # shared with `only`, so that a family alone is measured once
        self._attempts = dict[tuple[tuple[str, ...], tuple[tuple[str, float], ...], Weighing], tuple[Answer, Built]]()

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """What could not be chosen, and why."""
        return self._space.refusals

    def only(self, families: Sequence[str]) -> Search:
        """The same measurements with fewer families to choose from."""
        other = copy(self)
        other._space = self._space.only(families)
        other._chooser = self._chooser.only(families)
        other._work, other._candidates = self._work / "-".join(families), {}
        return other

    def within(self, budgets: Sequence[Budget]) -> tuple[Answer, Built]:
        """The answer that holds the budgets as measured and loses least where training did not look; or else what is least above one.

        Raises:
            InfeasibleError: no choice holds the budgets, or none that is predicted to be as far below them as prediction was short.
        """
        asked = {budget.resource: budget.within(self._whole(budget.resource)) for budget in budgets}
        found = [self._attempted(budgets, asked, weighing) for weighing in self._weighings()]
        for family in self._alone():
            try:
                answer, built = self.only((family,))._attempted(budgets, asked, Weighing())
            except InfeasibleError:
                continue
            found.append((replace(answer, chosen={**self._space.nothing, **answer.chosen}), built))
        least = min(_excess(built, asked) for _, built in found)
        near = {frozenset(each[0].chosen.items()): each for each in found if _excess(each[1], asked) == least}
        answer, built = next(iter(near.values()))
        if len(near) > 1:
            answer, built = min(near.values(), key=self._judged)
        return answer, self._trained(answer, built, self._data)

    def _judged(self, each: tuple[Answer, Built]) -> float:
        """What it loses, trained, where training did not look."""
        return self._judge.loss(self._trained(*each, self._judge.training).program)

    def _attempted(self, budgets: Sequence[Budget], asked: Mapping[str, float], weighing: Weighing) -> tuple[Answer, Built]:
        """Of answers whose measured figures are within the budgets that which is predicted to lose least; where there is none, that
        which is least above one; not trained yet.

        Aims are moved by what prediction was wrong until an answer uses what it may.
        """
        key = (self._space.families, tuple(asked.items()), weighing)
        if key not in self._attempts:
            self._attempts[key] = self._best(budgets, asked, weighing)
        return self._attempts[key]

    def _best(self, budgets: Sequence[Budget], asked: Mapping[str, float], weighing: Weighing) -> tuple[Answer, Built]:
        aims, found = dict(asked), list[tuple[Answer, Built]]()
        ends = {name: Ends() for name in asked}
        for _ in range(self._how.attempts):
            try:
                answer = self._chooser.answer(aims, weighing) if found else self._chooser.nearest(aims, weighing)
            except InfeasibleError:
                if not found:
                    raise
                break
            built = self._measured(answer, budgets)
            found.append((replace(answer, budgets=asked), built))
            used = {name: built.measured[name].value / limit for name, limit in asked.items()}
            over = [name for name in asked if used[name] > 1]
            if not over and max(used.values()) >= _USED:
                break
            for name in over or asked:
                ends[name] = ends[name].narrowed(aims[name], name in over)
                aims[name] = ends[name].next(min(aims[name], answer.costs[name]) / used[name] * _MARGIN)
        held = [each for each in found if _excess(each[1], asked) == 1]
        return min(held, key=lambda each: each[0].loss) if held else min(found, key=lambda each: _excess(each[1], asked))

    def _measured(self, answer: Answer, budgets: Sequence[Budget]) -> Built:
        """Lowered and measured, not trained; once."""
        chosen = frozenset(answer.chosen.items())
        if chosen not in self._candidates:
            self._candidates[chosen] = self._built(answer.chosen, self._data, steps=0)
        return self._candidates[chosen].judged(budgets)

    @property
    def _short(self) -> int:
        """Steps of a short training; fewer than some tell less than none."""
        steps = min(_SHORT, _SHORTLY * self._how.steps // max(self._space.cuts, 1))
        return steps if 2 * steps >= _SHORT else 0

    def _shortly(self, cut: Program) -> Program:
        """Trained for the steps of `_short`."""
        data = Context(Evidence(self._judge.training), self._how.seed)
        return Recover(steps=self._short, loss=training_loss(self._source), teacher=self._original).apply(cut, data)

    def fronts(self, answer: Answer) -> dict[str, Front]:
        """`Chooser.fronts` of an answer."""
        return self._chooser.fronts(answer)

    def predicted(self, answer: Answer) -> Answer:
        """`Chooser.predicted` of an answer."""
        return self._chooser.predicted(answer)

    def again(self, answer: Answer, steps: int) -> Built:
        """The same choices with longer training."""
        return self._built(answer.chosen, self._data, steps)

    def _trained(self, answer: Answer, built: Built, data: Calibration) -> Built:
        """The same choices; the same kernels too, so that the time that was measured holds."""
        if not self._how.steps or not built.plan.changes_structure:
            return built
        trained = self._built(answer.chosen, data, timed=False)
        return replace(trained, measured={**built.measured, **trained.measured}, ratio=built.ratio, seconds=built.seconds)

    def _alone(self) -> tuple[str, ...]:
        """Families whose own answers are candidates too, where training follows: of mixtures predictions are the least sure."""
        return self._space.families if self._how.steps and len(self._weighings()) > 1 else ()

    def _weighings(self) -> tuple[Weighing, ...]:
        """More than one where training follows and there is something to weigh against each other."""
        other = self._space.atoms or self._space.blocks
        return self._how.weighings if self._how.steps and self._space.ranked and other else (Weighing(),)

    def _built(self, chosen: Mapping[str, str], training: Calibration, steps: int | None = None, timed: bool = True) -> Built:
        plan, cut = self._space.built(chosen)
        if plan.changes_structure:
            plan = replace(plan, steps=self._how.steps if steps is None else steps)
        passes = finishing(plan, self._original, self._source)
        data = training if plan.steps else self._data
        result = Pipeline(passes).run(cut, data, seed=self._how.seed, progress=self._progress)
        self._made += 1
        artifact = lower(result.program, self._target, out=self._work / f"artifact-{self._made}")
        measured, ratio, seconds = {"size": Measured.exactly(float(artifact.payload_size))}, None, None
        if timed and self._float is not None and self.float_seconds is not None:
            table = self._bench([artifact, self._float])
            ratio, seconds = table.ratio(0, 1), Measured(*table.median(0))
            ends = (ratio.median, min(ratio.low, ratio.median), max(ratio.high, ratio.median))
            measured["latency"] = Measured(*(share * self.float_seconds for share in ends))
        return Built(plan, result.program, tuple(passes), result.report, measured, ratio, seconds)

    def _bench(self, artifacts: Sequence[Artifact]) -> Table:
        """In turns; of runs that are short, a turn has more: after a pause the first ones are the machine's more than the program's."""
        a_turn = _RUNS if self.float_seconds is None else max(_RUNS, min(_MOST_RUNS, ceil(_TURN / self.float_seconds)))
        turns = ceil(self._how.repeats / _RUNS)
        return bench(
            artifacts,
            sizes=self._sizes,
            repeats=turns * a_turn,
            runs_per_turn=a_turn,
            threads=self._how.threads,
            processes=_PROCESSES,
        )

    def _whole(self, resource: str) -> float:
        return float(self.float_size) if resource == "size" else float(self.float_seconds or 0.0)
