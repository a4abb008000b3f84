"""Problem ==> an answer's steps: from each unit's least loss on, that which loses least for what it brings budgets nearer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csc_array

from .linear import Item, Vector
from .problem import ROUNDING, Problem

_STEPS = 10
"""The most steps for each choice; a search that needs more goes round by rounding."""
SUMMED = 1e-12
"""Differences below this share are those of sums in another order."""


def path(problem: Problem) -> Iterator[dict[str, str]]:
    """Answers, each a step from the one before it; the last one is where no step helps.

    While a budget is exceeded or a forbidden pair taken, the step is the one that loses least for what the budgets come nearer,
    in shares of them; then the one that gains most while all hold. Of equal steps it is the first, by units and choices.
    """
    moves = Moves(problem)
    least = SUMMED * np.abs(moves.own[0]).max(initial=0.0)
    taken = np.array([own.start + int(np.argmin(moves.own[0, own])) for own in moves.units], dtype=np.intp)
    for _ in range(_STEPS * len(moves.items) + 1):
        yield dict(moves.items[place] for place in taken)
        lost, excess = moves.after(taken)
        now = excess[taken].max(initial=0.0)
        better = np.flatnonzero(excess < now * (1 - SUMMED)) if now else np.flatnonzero((excess == 0) & (lost < -least))
        if not len(better):
            return
        price = lost[better] / (now - excess[better]) if now else lost[better]
        step = better[int(np.argmin(price))]
        taken[moves.owner[step]] = step


class Moves:
    """Sums of an answer, and after each single step from it; an answer is the places of its choices in the row of all."""

    def __init__(self, problem: Problem) -> None:
        choices = [(unit, choice) for unit in problem.units for choice in unit.choices]
        self.items: list[Item] = [(unit.name, choice.name) for unit, choice in choices]
        place = {item: index for index, item in enumerate(self.items)}
        ends = np.cumsum([0, *(len(unit.choices) for unit in problem.units)])
        self.units = [slice(int(first), int(last)) for first, last in pairwise(ends)]
        self.owner = np.repeat(np.arange(len(self.units)), np.diff(ends))
        names = tuple(problem.budgets)
        # the sums: losses, budgets, forbidden pairs
        sums = [[choice.loss for _, choice in choices], *([choice.costs.get(name, 0.0) for _, choice in choices] for name in names)]
        self.own: Vector = np.array([*sums, [0.0] * len(choices)])
        ends_of = [(place[pair.first], place[pair.second]) for pair in problem.pairs]
        added = [[pair.loss, *(pair.costs.get(name, 0.0) for name in names), float(pair.forbidden)] for pair in problem.pairs]
        self._pairs = [_symmetric(ends_of, column, len(choices)) for column in zip(*added, strict=True)]
        limits = [(problem.budgets[name], problem.base.get(name, 0.0)) for name in names]
        # half of what `Problem.holds` allows, so that sums in another order do not exceed it
        self._most = np.array([*(limit + ROUNDING / 2 * abs(limit) - base for limit, base in limits), 0.0])
        self._scale = np.array([*(abs(limit) or 1.0 for limit, _ in limits), 1.0])

    def after(self, taken: NDArray[np.intp]) -> tuple[Vector, Vector]:
        """For each choice, were it taken with the others: what is lost over now, and what budgets are exceeded by, in shares."""
        added = self.own.copy()
        for values, pairs in zip(added, self._pairs, strict=False):
            values += pairs[:, taken].sum(axis=1)
        now = (added[:, taken] + self.own[:, taken]).sum(axis=1) / 2  # each pair was added to both of its choices
        sums = now[:, None] + added - added[:, taken[self.owner]]
        excess = np.maximum(sums[1:] - self._most[:, None], 0.0) / self._scale[:, None]
        return sums[0] - now[0], excess.sum(axis=0)


def _symmetric(places: Sequence[tuple[int, int]], values: Sequence[float], size: int) -> csc_array:
    first, second = zip(*places, strict=True)
    return coo_array(((*values, *values), ((*first, *second), (*second, *first))), shape=(size, size)).tocsc()
