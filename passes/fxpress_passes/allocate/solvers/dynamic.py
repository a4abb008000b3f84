"""Problem with one budget ==> its best answer, and all answers of which none is better in loss and cost, by dynamic programming.

Units are added one after the other; of the sums so far only those are kept of which no other has less loss and less cost
(ZeroQ's frontier, Cai et al., 2020).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from fxpress_ir.errors import PassError
from numpy.typing import NDArray

from ..answer import Answer
from ..infeasible import infeasible
from ..linear import Vector
from ..problem import ROUNDING, WHERE, Problem
from ..solver import Solver, equal_losses, first_of_equals

Places = NDArray[np.intp]


@dataclass(frozen=True)
class Dynamic(Solver):
    """One budget, no pairs.

    With a resolution w, of the sums of cost that lie within one step of w only the one of least loss is kept: the answer
    loses no more than the best one under a budget that is less by w a unit, and its bound is the best one under a budget
    that is more by that.

    Options:
        resolution: in the resource's unit; 0 is exact.
        most: sums kept at once, before it is given up.
    """

    name: ClassVar[str] = "dynamic"
    exact: ClassVar[bool] = True
    pairs: ClassVar[bool] = False
    most_budgets: ClassVar[int | None] = 1
    resolution: float = 0.0
    most: int = 2_000_000

    def solve(self, problem: Problem) -> Answer:
        """The best answer, to the resolution.

        Raises:
            InfeasibleError: no answer holds the budget.
            PassError: there is another number of budgets than one, there are pairs, or too many sums.
        """
        start = time.monotonic()
        if len(problem.budgets) != 1:
            raise PassError(f"dynamic takes one budget, not {len(problem.budgets)}", where=WHERE, way_on="solve by milp")
        ((resource, limit),) = problem.budgets.items()
        spare = self.resolution * len(problem.units)
        sums = self._sums(problem, resource, limit + spare + 2 * ROUNDING * abs(limit))
        bound = float(sums.losses.min(initial=np.inf))
        allowed: list[dict[str, str]] = []
        for place in np.lexsort((sums.costs, sums.losses)):
            if allowed and sums.losses[place] > equal_losses(equal_losses(problem.loss(allowed[0]))):
                break
            chosen = sums.chosen(problem, int(place))
            if problem.allows(chosen):
                allowed.append(chosen)
        if not allowed:
            raise infeasible(problem)
        chosen = first_of_equals(problem, allowed)
        bound = bound if self.resolution else problem.loss(chosen)
        return Answer.of(problem, chosen, self.name, bound=bound, seconds=time.monotonic() - start)

    def frontier(self, problem: Problem, resource: str) -> tuple[Answer, ...]:
        """All answers of which no other has less loss and takes less of the resource, by what they take; budgets do not count.

        Raises:
            PassError: there are pairs, or too many sums.
        """
        start = time.monotonic()
        problem = problem.within({})
        sums = self._sums(problem, resource, math.inf)
        found = [sums.chosen(problem, place) for place in range(len(sums.costs))]
        seconds = time.monotonic() - start
        return tuple(Answer.of(problem, chosen, self.name, seconds=seconds) for chosen in found)

    def _sums(self, problem: Problem, resource: str, limit: float) -> _Sums:
        if problem.pairs:
            raise PassError("dynamic takes no pairs", where=WHERE, way_on="solve by milp")
        units = [(np.array([c.loss for c in unit.choices]), np.array([c.costs[resource] for c in unit.choices])) for unit in problem.units]
        # what the units to come take at least
        rest = np.cumsum([0.0, *(costs.min() for _, costs in reversed(units))])[::-1]
        sums = _Sums(np.zeros(1), np.array([problem.base.get(resource, 0.0)]), np.zeros(1, dtype=np.intp), ())
        for (losses, costs), least in zip(units, rest[1:], strict=True):
            sums = sums.plus(losses, costs, limit - least, self.resolution)
            if len(sums.costs) > self.most:
                raise PassError(f"{len(sums.costs)} sums are too many", where=WHERE, way_on="give a resolution, or solve by milp")
        return sums


@dataclass(frozen=True)
class _Sums:
    """Sums that are kept, by cost.

    Attributes:
        rank: of their choices, unit by unit, in the order of choices.
        back: for each unit so far, of each sum the place of the one before it and the choice.
    """

    losses: Vector
    costs: Vector
    rank: Places
    back: tuple[tuple[Places, Places], ...]

    def plus(self, losses: Vector, costs: Vector, limit: float, resolution: float) -> _Sums:
        """With one more unit."""
        count = len(losses)
        loss, cost = (self.losses[:, None] + losses).ravel(), (self.costs[:, None] + costs).ravel()
        rank = (self.rank[:, None] * count + np.arange(count)).ravel()
        losses, costs = _comparable(loss), _comparable(cost)
        order = np.lexsort((rank, losses, costs))
        order = order[(cost[order] <= limit) | (np.arange(len(order)) == 0)]
        least = np.minimum.accumulate(losses[order])
        order = order[np.r_[True, least[1:] < least[:-1]]]
        if resolution:
            # of each step the last one has the least loss; the cheapest is kept so that what can be held is found
            step = np.floor(cost[order] / resolution)
            order = order[np.r_[step[1:] != step[:-1], True] | (np.arange(len(order)) == 0)]
        ranked = np.empty(len(order), dtype=np.intp)
        ranked[np.argsort(rank[order])] = np.arange(len(order))
        return _Sums(loss[order], cost[order], ranked, (*self.back, (order // count, order % count)))

    def chosen(self, problem: Problem, place: int) -> dict[str, str]:
        """The choices of one sum."""
        found: dict[str, str] = {}
        for unit, (before, choice) in zip(reversed(problem.units), reversed(self.back), strict=True):
            found[unit.name] = unit.choices[choice[place]].name
            place = int(before[place])
        return found


def _comparable(sums: Vector) -> Vector:
    """The sums as whole numbers; those that differ by rounding alone, because they were added up in another order, are equal."""
    return np.rint(sums / (np.abs(sums).max() * ROUNDING or 1.0))
