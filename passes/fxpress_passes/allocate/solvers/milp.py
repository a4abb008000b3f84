"""Problem ==> its best answer and the proof, by mixed-integer linear programming (HiGHS)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from fxpress_ir.errors import PassError

from ..answer import Answer
from ..infeasible import infeasible
from ..linear import Linear, Row, Vector, best, linear
from ..problem import Problem, Unit
from ..solver import Solver, equal_losses
from .greedy import search

_TELLS_APART = 10_000
"""Values of one objective, the differences of which are far above HiGHS's tolerances."""


@dataclass(frozen=True)
class Milp(Solver):
    """Any number of budgets, and pairs.

    Budgets are checked on exact sums: an answer that only the tolerances of floating point allow is cut off and the rest
    solved again. Of equal answers the one that `solver.EQUAL` names is found by solving again for each budget and each unit;
    not where time has run out or a gap is allowed, there it is HiGHS's first one.

    Options:
        gap: relative optimality gap at which to stop; 0 proves the answer.
        seconds: after which the best answer so far is given, with its gap.
    """

    name: ClassVar[str] = "milp"
    exact: ClassVar[bool] = True
    pairs: ClassVar[bool] = True
    most_budgets: ClassVar[int | None] = None
    gap: float = 0.0
    seconds: float = 60.0

    def solve(self, problem: Problem) -> Answer:
        """The best answer, its bound from HiGHS.

        Raises:
            InfeasibleError: no answer holds all budgets.
            PassError: no answer was found within `seconds`.
        """
        start = time.monotonic()
        deadline = start + self.seconds
        model, offset, scale = _narrowed(linear(problem))
        rows = [model.budget(name) for name in problem.budgets]
        model, found = best(model, model.loss, rows, problem.allows, scale=scale, gap=self.gap, deadline=deadline)
        if found.chosen is None:
            raise infeasible(problem)
        chosen, loss = found.chosen, problem.loss(found.chosen)
        # a search that was cut short may have no bound yet
        bound = offset + max(found.bound, math.fsum(min(pair.loss, 0.0) for pair in problem.pairs))
        if equal_losses(bound) + found.tolerance >= loss:  # HiGHS knows no smaller difference
            bound = loss
        if bound == loss and not self.gap:
            chosen = _first_of_equals(model, rows, chosen, offset, deadline)
        return Answer.of(problem, chosen, self.name, bound=bound, seconds=time.monotonic() - start)


def _narrowed(model: Linear) -> tuple[Linear, float, float]:
    """Losses over each unit's least one, their sum, and the scale on which they matter.

    Choices that alone lose more than greedy's whole answer are taken out.
    """
    problem = model.problem
    least = {unit.name: min(choice.loss for choice in unit.choices) for unit in problem.units}
    offset = math.fsum(least.values())
    loss, upper, room = model.loss.copy(), model.upper.copy(), math.inf
    if (found := search(problem)) is not None:
        room = equal_losses(problem.loss(found)) - offset - math.fsum(min(pair.loss, 0.0) for pair in problem.pairs)
    for (unit, _), place in model.columns.items():
        loss[place] -= least[unit]
        if loss[place] > room:
            loss[place] = upper[place] = 0.0
    return replace(model, loss=loss, upper=upper), offset, room if math.isfinite(room) else 0.0


def _first_of_equals(model: Linear, rows: list[Row], chosen: dict[str, str], offset: float, deadline: float) -> dict[str, str]:
    """Of the answers that lose as little as `chosen` the one that the rule of `solver.EQUAL` names."""
    problem = model.problem
    most = equal_losses(problem.loss(chosen))
    rows = [*rows, Row(model.loss, most - offset)]

    def accepts(other: dict[str, str]) -> bool:
        return problem.allows(other) and problem.loss(other) <= most

    with suppress(PassError):  # time has run out: the best of those that were found
        if best(model.without(chosen), np.zeros(len(model.loss)), rows, accepts, deadline=deadline)[1].chosen is None:
            return chosen
        for name in problem.budgets:
            model, found = best(model, model.costs[name], rows, accepts, deadline=deadline)
            chosen = found.chosen or chosen
            rows.append(Row(model.costs[name], problem.costs(chosen)[name] - problem.base.get(name, 0.0)))
        for units in _chunks(problem.units):
            model, found = best(model, _places(model, units), rows, accepts, deadline=deadline)
            chosen = found.chosen or chosen
            model = model.fixed({unit.name: chosen[unit.name] for unit in units})
    return chosen


def _chunks(units: Sequence[Unit]) -> Iterator[list[Unit]]:
    """Units in order, as many at a time as one objective tells apart."""
    chunk: list[Unit] = []
    for unit in units:
        if chunk and math.prod(len(each.choices) for each in (*chunk, unit)) > _TELLS_APART:
            yield chunk
            chunk = []
        chunk.append(unit)
    yield chunk


def _places(model: Linear, units: Sequence[Unit]) -> Vector:
    """The places of the units' choices, as digits of one number."""
    places, weight = np.zeros(len(model.loss)), 1
    for unit in reversed(units):
        places[[model.columns[unit.name, choice.name] for choice in unit.choices]] = weight * np.arange(len(unit.choices))
        weight *= len(unit.choices)
    return places
