"""space, losses, costs ==> answers within aims: by one integer program, whose costs are exact where it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from fxpress_ir.errors import InfeasibleError
from fxpress_passes.allocate import Answer, Front, Milp, Problem, front
from fxpress_passes.evidence.losses import Distance

from .built import How, Weighing
from .costs import Costs
from .losses import Losses
from .problem import problem_of
from .search import Progress, improved
from .space import Space

_SOLVINGS, _SECONDS, _GAP = 4, 30.0, 1e-3
"""How often costs are written anew at the answer, in which they are exact; how long one solving may take, and how far from the optimum it
may end, which is less than what predictions are wrong."""
_SLACK = (1.0, 1.1, 1.25)
"""By how much predicted times may be above what is built, tried in turn."""


@dataclass(frozen=True)
class Chooser:
    """What is known of one space's choices.

    Attributes:
        singles: what each choice alone loses, after a short training where answers are trained.
        untrained: the same before any.
        distance: of outputs, by which choices together are measured.
    """

    space: Space
    singles: Mapping[tuple[str, str], float]
    untrained: Mapping[tuple[str, str], float]
    costs: Costs
    distance: Distance
    how: How
    progress: Progress | None = None

    def only(self, families: Sequence[str]) -> Chooser:
        """The same with fewer families to choose from."""
        return replace(self, space=self.space.only(families))

    @cached_property
    def _losses(self) -> Losses:
        return Losses(self.space, self.distance)

    def answer(self, aims: Mapping[str, float], weighing: Weighing) -> Answer:
        """From nothing chosen, or else from the least size: the first answer that holds the aims by what it costs itself.

        Raises:
            InfeasibleError: from either nothing holds them.
        """
        solver, losses, size, refused = Milp(gap=_GAP, seconds=_SECONDS), self._weighed(weighing), self.costs.size, list[InfeasibleError]()
        least = {name: min(choices, key=lambda one: size.get((name, one), 0.0)) for name, choices in self.space.units.items()}
        settled = list[tuple[Problem, Answer]]()
        for at in (self.space.nothing, least):
            try:
                settled.append(self._settled(solver, losses, aims, at))
            except InfeasibleError as error:
                refused.append(error)
                continue
            if settled[-1][0].holds(settled[-1][1].costs):
                break
        if refused and not any(problem.holds(answer.costs) for problem, answer in settled):
            raise refused[0]
        problem, answer = min(settled, key=lambda each: max(each[1].costs[name] / limit for name, limit in aims.items()))
        if self.how.steps and self.space.built(answer.chosen)[0].changes_structure:
            # what training gives back is in no loss of several choices that is measured before it
            return answer
        return improved(problem, answer, solver, self._losses.of, self.how.rounds, self.progress)

    def nearest(self, aims: Mapping[str, float], weighing: Weighing) -> Answer:
        """Within the aims, or above that of latency by no more than predictions may be wrong: what is built will tell.

        Raises:
            InfeasibleError: not even so.
        """
        for slack in _SLACK if "latency" in aims else ():
            try:
                return self.answer({**aims, "latency": aims["latency"] * slack}, weighing)
            except InfeasibleError:
                continue
        return self.answer(aims, weighing)

    def fronts(self, answer: Answer) -> dict[str, Front]:
        """By resource with a budget, the others held; without improvement around answers, and exact in costs at this one."""
        problem = problem_of(self.space, self.singles, self.costs, answer.budgets, answer.chosen)
        return {name: front(problem, name, points=12, solver=Milp(gap=_GAP, seconds=_SECONDS)) for name in answer.budgets}

    def predicted(self, answer: Answer) -> Answer:
        """The same choices with the sum of single losses, as fronts have it."""
        problem = problem_of(self.space, self.singles, self.costs, answer.budgets, answer.chosen)
        return Answer.of(problem, answer.chosen, answer.solver)

    def _settled(
        self, solver: Milp, losses: Mapping[tuple[str, str], float], aims: Mapping[str, float], at: Mapping[str, str]
    ) -> tuple[Problem, Answer]:
        """Solved again at each answer until it stays; the problem's costs are exact at the answer."""
        for _ in range(_SOLVINGS + 1):
            answer = solver.solve(problem_of(self.space, losses, self.costs, aims, at))
            if answer.chosen == at:
                break
            at = answer.chosen
        own = problem_of(self.space, losses, self.costs, aims, answer.chosen)
        return own, Answer.of(own, answer.chosen, answer.solver, seconds=answer.seconds)

    def _weighed(self, weighing: Weighing) -> dict[tuple[str, str], float]:
        losses = self.singles if weighing.trained else self.untrained
        return {(unit, choice): loss * (1.0 if unit in self.space.layers else weighing.weight) for (unit, choice), loss in losses.items()}
