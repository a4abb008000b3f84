"""Problem ==> an answer by the steps that lose least for what they save; fast, without a proof."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

from fxpress_ir.errors import PassError

from ..answer import Answer
from ..infeasible import infeasible, is_feasible
from ..problem import WHERE, Problem
from ..solver import Solver
from ..steps import path


@dataclass(frozen=True)
class Greedy(Solver):
    """Any number of budgets, and pairs.

    From each unit's least loss on, the step is taken that loses least for what it brings the budgets nearer, until all hold;
    then the steps back that gain most while all hold.
    """

    name: ClassVar[str] = "greedy"
    exact: ClassVar[bool] = False
    pairs: ClassVar[bool] = True
    most_budgets: ClassVar[int | None] = None

    def solve(self, problem: Problem) -> Answer:
        """An answer that holds, without a bound.

        Raises:
            InfeasibleError: no answer holds all budgets.
            PassError: there are answers, but single steps lead to none.
        """
        start = time.monotonic()
        chosen = search(problem)
        if chosen is None and is_feasible(problem):
            raise PassError("single steps lead to no answer, and there are some", where=WHERE, way_on="solve by milp")
        if chosen is None:
            raise infeasible(problem)
        return Answer.of(problem, chosen, self.name, seconds=time.monotonic() - start)


def search(problem: Problem) -> dict[str, str] | None:
    """What greedy chooses, None where single steps do not reach an answer."""
    *_, last = path(problem)
    return last if problem.allows(last) else None
