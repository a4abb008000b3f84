"""Problem, measured accuracy, a floor ==> the most steps to cheaper choices, least sensitive first, that keep the floor.

Steps are ordered by what they are predicted to lose for what they save, pairs with the units that went before included;
bisection over their number then measures (Schaefer et al., "Augmenting Hessians with inter-layer dependencies for
mixed-precision post-training quantization", 2023).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from fxpress_ir.errors import InfeasibleError, PassError

from ..answer import Answer
from ..figures import figure
from ..problem import WHERE, Problem
from ..solver import Solver
from ..steps import path


@dataclass(frozen=True)
class Bisection(Solver):
    """One resource is saved as far as accuracy allows; budgets must hold then, too.

    Of n steps floor(log2 n) + 1 answers are measured at most, and the one without a step where not even the first may be taken.
    That fewer steps are no less accurate is taken for granted; the answer itself has been measured.

    Options:
        measure: decisions, as in `Answer.decisions` -> accuracy, higher is better; best on data that no loss was predicted on.
        floor: least accuracy.
        resource: what is saved; the first budget's by default.
    """

    name: ClassVar[str] = "bisection"
    exact: ClassVar[bool] = False
    pairs: ClassVar[bool] = True
    most_budgets: ClassVar[int | None] = None
    measure: Callable[[Mapping[str, str]], float]
    floor: float
    resource: str = ""

    def solve(self, problem: Problem) -> Answer:
        """The answer with the most steps that is measured at the floor or above, without a bound.

        Raises:
            InfeasibleError: the answer without a step is below the floor, or a budget does not hold.
            PassError: no resource is named.
        """
        start = time.monotonic()
        resource = self.resource or next(iter(problem.budgets), "")
        if resource not in problem.resources:
            raise PassError(f"{resource!r} is no resource", where=WHERE, way_on=f"one of {', '.join(problem.resources)}")
        answers = list(path(problem.within({resource: _unreachable(problem, resource)})))
        kept, excluded = 0, len(answers)
        while excluded - kept > 1:
            middle = (kept + excluded) // 2
            kept, excluded = (middle, excluded) if self._keeps(problem, answers[middle]) else (kept, middle)
        if kept == 0 and not self._keeps(problem, answers[0]):
            what = f"accuracy {self.floor:g} is not reached even by the least loss of every unit"
            raise InfeasibleError(what, where=WHERE, way_on="lower the floor", binding=("accuracy",))
        answer = Answer.of(problem, answers[kept], self.name, seconds=time.monotonic() - start)
        self._check(problem, answer)
        return answer

    def _keeps(self, problem: Problem, chosen: Mapping[str, str]) -> bool:
        return self.measure(problem.decisions(chosen)) >= self.floor

    def _check(self, problem: Problem, answer: Answer) -> None:
        if not math.isfinite(answer.loss):
            raise PassError("single steps lead only to forbidden pairs", where=WHERE, way_on="solve by milp")
        broken = {
            name: answer.costs[name] for name, limit in problem.budgets.items() if not problem.within({name: limit}).holds(answer.costs)
        }
        if broken:
            what = " and ".join(f"{name} at most {figure(name, problem.budgets[name])}" for name in broken)
            nearest = " and ".join(f"{name} {figure(name, value, up=True)}" for name, value in broken.items())
            way_on = f"the nearest found is {nearest}"
            binding = ("accuracy", *broken)
            raise InfeasibleError(
                f"{what} cannot be held at accuracy {self.floor:g}", where=WHERE, way_on=way_on, binding=binding, nearest=broken
            )


def _unreachable(problem: Problem, resource: str) -> float:
    """Less of the resource than any answer takes, so that steps go on to the end."""
    least = [min(choice.costs[resource] for choice in unit.choices) for unit in problem.units]
    pairs = [min(pair.costs.get(resource, 0.0), 0.0) for pair in problem.pairs]
    total = math.fsum([problem.base.get(resource, 0.0), *least, *pairs])
    return total - max(1.0, abs(total))
