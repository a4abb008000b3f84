"""What every solver is: options, and problem ==> answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Protocol

from .answer import Answer
from .problem import Problem

EQUAL = 1e-9
"""Losses that differ by so much of the least one are equal. Of equal losses the answer wins that takes least of the first budget,
then of the second and so on; of those equal in all, the one whose first unit takes the earlier choice, then the second and so on."""


class Solver(Protocol):
    """A frozen dataclass whose fields are options.

    Attributes:
        name: as in its file's name and in answers.
        exact: it finds the least loss there is, or says how far it may be from it.
        pairs: it takes problems with pairs.
        most_budgets: that it takes at once; None for any number.
    """

    name: ClassVar[str]
    exact: ClassVar[bool]
    pairs: ClassVar[bool]
    most_budgets: ClassVar[int | None]

    def solve(self, problem: Problem) -> Answer:
        """The best answer that this solver finds; the same for the same problem.

        Raises:
            InfeasibleError: no answer holds all budgets.
            PassError: the solver does not take such problems, or found no answer.
        """
        ...


def equal_losses(least: float) -> float:
    """The largest loss that counts as equal to the least one."""
    return least + EQUAL * abs(least)


def first_of_equals(problem: Problem, answers: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Of answers that all hold, at least one, that which the rule of `EQUAL` names."""
    left = [(problem.loss(chosen), problem.costs(chosen), chosen) for chosen in answers]
    least = min(loss for loss, *_ in left)
    left = [each for each in left if each[0] <= equal_losses(least)]
    for name in problem.budgets:
        least = min(costs[name] for _, costs, _ in left)
        left = [each for each in left if each[1][name] <= equal_losses(least)]
    places = {unit.name: {choice.name: place for place, choice in enumerate(unit.choices)} for unit in problem.units}
    *_, first = min(left, key=lambda each: [places[unit][each[2][unit]] for unit in places])
    return dict(first)
