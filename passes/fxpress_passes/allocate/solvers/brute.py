"""Problem ==> its best answer, by trying all: the judge of the other solvers on small problems."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from fxpress_ir.errors import PassError

from ..answer import Answer
from ..infeasible import infeasible
from ..linear import Vector
from ..problem import ROUNDING, WHERE, Problem
from ..solver import Solver, equal_losses, first_of_equals

_Index = tuple[int | slice, ...]


@dataclass(frozen=True)
class Brute(Solver):
    """Any number of budgets, and pairs; no more than `most` answers.

    Options:
        most: answers to try.
    """

    name: ClassVar[str] = "brute"
    exact: ClassVar[bool] = True
    pairs: ClassVar[bool] = True
    most_budgets: ClassVar[int | None] = None
    most: int = 200_000

    def solve(self, problem: Problem) -> Answer:
        """The best answer there is.

        Raises:
            InfeasibleError: no answer holds all budgets.
            PassError: there are more than `most` answers.
        """
        start = time.monotonic()
        count = math.prod(len(unit.choices) for unit in problem.units)
        if count > self.most:
            raise PassError(f"{count} answers are too many to try", where=WHERE, way_on="solve by milp, or raise most")
        losses, costs = _sums(problem)
        allowed = np.isfinite(losses)
        for name, limit in problem.budgets.items():
            allowed &= costs[name] <= limit + 2 * ROUNDING * abs(limit)
        # sums in another order: the best by them are summed again, exactly
        places = np.flatnonzero(allowed.ravel())
        values = losses.ravel()[places]
        order = np.argsort(values, kind="stable")
        best: list[dict[str, str]] = []
        for place, value in zip(places[order], values[order], strict=True):
            if best and value > equal_losses(equal_losses(problem.loss(best[0]))):
                break
            chosen = _chosen(problem, np.unravel_index(place, losses.shape))
            if problem.allows(chosen):
                best.append(chosen)
        if not best:
            raise infeasible(problem)
        chosen = first_of_equals(problem, best)
        return Answer.of(problem, chosen, self.name, bound=problem.loss(chosen), seconds=time.monotonic() - start)


def _sums(problem: Problem) -> tuple[Vector, dict[str, Vector]]:
    """Of all answers: losses, infinite where a forbidden pair is taken, and costs; an axis a unit."""
    shape = tuple(len(unit.choices) for unit in problem.units)
    losses = np.zeros(shape)
    costs = {name: np.full(shape, float(problem.base.get(name, 0.0))) for name in problem.budgets}
    place = {(unit.name, choice.name): (axis, at) for axis, unit in enumerate(problem.units) for at, choice in enumerate(unit.choices)}

    def add(where: _Index, loss: float, added: Mapping[str, float]) -> None:
        losses[where] += loss
        for name in costs:
            costs[name][where] += added.get(name, 0.0)

    for unit in problem.units:
        for choice in unit.choices:
            add(_where(place[unit.name, choice.name]), choice.loss, choice.costs)
    for pair in problem.pairs:
        add(_where(place[pair.first], place[pair.second]), math.inf if pair.forbidden else pair.loss, pair.costs)
    return losses, costs


def _where(*fixed: tuple[int, int]) -> _Index:
    """The answers that take one choice on each of these axes."""
    at = dict(fixed)
    return tuple(at.get(axis, slice(None)) for axis in range(max(at) + 1))


def _chosen(problem: Problem, places: Sequence[np.intp]) -> dict[str, str]:
    return {unit.name: unit.choices[place].name for unit, place in zip(problem.units, places, strict=True)}
