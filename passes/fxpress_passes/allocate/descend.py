"""Problem, an answer ==> one that is better by its losses, by chains: a step, what makes room for it, what then fits."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .problem import Problem
from .steps import SUMMED, Moves

Taken = NDArray[np.intp]


def descend(problem: Problem, chosen: Mapping[str, str]) -> dict[str, str]:
    """What the best chain from `chosen` leads to, again and again until none loses less; `chosen` itself where it is held.

    A chain begins with any step. While a budget is exceeded, the step is next that loses least for what the budgets come nearer; then
    those that gain, the most first, while all hold. No unit moves twice in a chain. Exact for no problem, but from a good answer it
    finds what solvers without pairs cannot know, at some thousand evaluations.

    Args:
        chosen: holds the budgets.
    """
    moves = Moves(problem)
    least = SUMMED * float(np.abs(moves.own[0]).max(initial=0.0))
    place = {item: at for at, item in enumerate(moves.items)}
    taken = np.array([place[item] for item in ((unit.name, chosen[unit.name]) for unit in problem.units)], dtype=np.intp)
    while True:
        chains = [_chain(moves, taken, step, least) for step in range(len(moves.items)) if step not in taken]
        lost, found = min(chains, key=lambda chain: chain[0], default=(0.0, taken))
        better = dict(moves.items[at] for at in found)
        if lost >= -least or not problem.allows(better):
            return dict(moves.items[at] for at in taken)
        taken = found


def _chain(moves: Moves, taken: Taken, first: int, least: float) -> tuple[float, Taken]:
    """What is lost over now, infinite where no room is found; and where it ends."""
    taken, total, step = taken.copy(), 0.0, first
    free = np.ones(len(moves.items), dtype=bool)
    lost, excess = moves.after(taken)
    while True:
        total += float(lost[step])
        taken[moves.owner[step]] = step
        free &= moves.owner != moves.owner[step]
        lost, excess = moves.after(taken)
        now = excess[taken].max(initial=0.0)
        better = np.flatnonzero(free & (excess < now) if now else free & (excess == 0) & (lost < -least))
        if not len(better):
            return (math.inf if now else total), taken
        price = lost[better] / (now - excess[better]) if now else lost[better]
        step = int(better[int(np.argmin(price))])
