"""problem, one resource ==> its front: the best answers under budgets from the least of it to where more of it gains nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from fxpress_ir.errors import InfeasibleError, PassError

from .answer import Answer
from .figures import figure, table
from .infeasible import least_cost
from .problem import ROUNDING, WHERE, Problem
from .solver import Solver, equal_losses
from .solvers.milp import Milp


@dataclass(frozen=True)
class Front:
    """Answers of which none has both less loss and less cost than another, by cost.

    Attributes:
        resource: what was swept; other budgets of the problem hold in every answer.
    """

    resource: str
    answers: tuple[Answer, ...]

    def within(self, most: float) -> Answer:
        """The answer of least loss that takes no more of the resource than `most`.

        Raises:
            InfeasibleError: none does; the line says which takes least.
        """
        held = [answer for answer in self.answers if answer.costs[self.resource] <= most + ROUNDING * abs(most)]
        if not held:
            least = self.answers[0].costs[self.resource]
            what = f"no answer on the front has {self.resource} at most {figure(self.resource, most)}"
            way_on = f"the nearest is {figure(self.resource, least, up=True)}"
            raise InfeasibleError(what, where=WHERE, way_on=way_on, binding=(self.resource,), nearest={self.resource: least})
        return held[-1]

    def __str__(self) -> str:
        others = [name for name in self.answers[0].costs if name != self.resource]
        names = [self.resource, *others]
        rows = [
            (
                *(figure(name, answer.costs[name]) for name in names),
                f"{answer.loss:.4g}",
                "-" if answer.gap is None else f"{answer.gap:.2g}",
            )
            for answer in self.answers
        ]
        return table((*names, "loss", "gap"), rows)

    def to_json(self) -> str:
        """The front as text; ``from_json`` reads it back."""
        return json.dumps({"resource": self.resource, "answers": [asdict(answer) for answer in self.answers]}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Front:
        """The front in a text.

        Raises:
            PassError: it is no JSON of a front.
        """
        try:
            found = json.loads(text)
            return cls(found["resource"], tuple(Answer(**answer) for answer in found["answers"]))
        except (ValueError, TypeError, KeyError) as error:
            raise PassError(f"is no front: {error!r}", where=WHERE, way_on="give what Front.to_json wrote") from error


def front(problem: Problem, resource: str, *, points: int = 20, limits: Sequence[float] = (), solver: Solver | None = None) -> Front:
    """Solve under a sweep of one budget; all other budgets of the problem hold.

    Args:
        resource: what is swept; its own budget does not count.
        points: budgets between the least there is of the resource and what the best answer without this budget takes, evenly
            spaced, both included.
        limits: these budgets instead; those that cannot be held are left out.
        solver: `Milp()` by default.

    Raises:
        InfeasibleError: the other budgets exclude each other, or none of `limits` can be held.
        PassError: there is no such resource.
    """
    solver = solver or Milp()
    if resource not in problem.resources:
        raise PassError(f"{resource!r} is no resource", where=WHERE, way_on=f"one of {', '.join(problem.resources)}")
    others = {name: limit for name, limit in problem.budgets.items() if name != resource}
    least = least_cost(problem.within(others), resource)
    if not limits:
        # a budget that no answer exceeds, because a solver may need one
        most = solver.solve(problem.within({resource: _all(problem, resource), **others})).costs[resource]
        limits = [least, *np.linspace(least, most, max(points, 2))[1:-1].tolist(), most]
    held = sorted(limit for limit in limits if limit + ROUNDING * abs(limit) >= least)
    if not held:
        raise InfeasibleError(
            f"{resource} at most {figure(resource, max(limits))} cannot be held",
            where=WHERE,
            way_on=f"the nearest is {resource} {figure(resource, least, up=True)}",
            binding=(resource,),
            nearest={resource: least},
        )
    found: list[Answer] = []
    for limit in reversed(held):
        # an answer that takes less than its budget is the answer to all budgets between
        if not found or found[-1].gap != 0 or found[-1].costs[resource] > limit + ROUNDING * abs(limit):
            found.append(solver.solve(problem.within({resource: limit, **others})))
    return Front(resource, undominated(found, resource))


def undominated(answers: Sequence[Answer], resource: str) -> tuple[Answer, ...]:
    """By cost, those than which none has less loss at no more cost; of equals the first."""
    kept: list[Answer] = []
    for answer in sorted(answers, key=lambda each: (each.costs[resource], each.loss)):
        if not kept or equal_losses(answer.loss) < kept[-1].loss:
            kept.append(answer)
    return tuple(kept)


def _all(problem: Problem, resource: str) -> float:
    """No answer takes more of the resource than this."""
    most = [max(choice.costs[resource] for choice in unit.choices) for unit in problem.units]
    pairs = [max(pair.costs.get(resource, 0.0), 0.0) for pair in problem.pairs]
    return float(np.sum([problem.base.get(resource, 0.0), *most, *pairs]))
