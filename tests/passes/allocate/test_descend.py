"""Descending never loses more, holds the budgets, makes room by several steps, and finds what all answers' best is where few are."""

from __future__ import annotations

import numpy as np
import pytest
from fxpress_passes.allocate.descend import descend
from fxpress_passes.allocate.problem import Choice, Pair, Problem, Unit
from fxpress_passes.allocate.solvers import Brute


def _quadratic(seed: int, units: int = 5, correlated: float = 1.0) -> Problem:
    """Losses are half the squared length of the sum of the choices' random moves, coarser ones larger."""
    generator = np.random.default_rng(seed)
    common = generator.normal(size=6) * correlated
    made, moves = [], {}
    for unit in range(units):
        size = float(generator.integers(1, 5))
        choices = []
        for bits in (4, 3, 2):
            move = (generator.normal(size=6) + common) * 2.0 ** (2 - bits)
            moves[f"u{unit}", str(bits)] = move
            choices.append(Choice(str(bits), float(move @ move) / 2, {"size": size * bits}))
        made.append(Unit(f"u{unit}", tuple(choices)))
    items = list(moves)
    pairs = tuple(
        Pair(one, other, float(moves[one] @ moves[other]))
        for place, one in enumerate(items)
        for other in items[place + 1 :]
        if one[0] != other[0]
    )
    whole = sum(unit.choices[0].costs["size"] for unit in made)
    return Problem(tuple(made), {"size": 0.75 * whole}, pairs)


@pytest.mark.parametrize("seed", range(8))
def test_a_descent_from_uniform_ends_at_the_best_of_few(seed: int) -> None:
    problem = _quadratic(seed)
    uniform = {unit.name: "3" for unit in problem.units}
    found, best = descend(problem, uniform), Brute().solve(problem)
    assert problem.allows(found)
    assert problem.loss(found) == pytest.approx(best.loss)
    assert descend(problem, found) == found
    assert descend(problem, best.chosen) == best.chosen


def test_one_large_step_makes_room_for_several_small_ones() -> None:
    def unit(name: str, size: float, gain: float) -> Unit:
        return Unit(name, (Choice("4", 0.0, {"size": 4 * size}), Choice("3", gain, {"size": 3 * size})))

    problem = Problem((unit("large", 4.0, 1.0), *(unit(f"small{place}", 1.0, 0.5) for place in range(4))), {"size": 28.0})
    start = {"large": "4", **{f"small{place}": "3" for place in range(4)}}
    assert descend(problem, start) == {"large": "3", **{f"small{place}": "4" for place in range(4)}}
    assert problem.loss(start) == 2.0


def test_several_small_steps_make_room_for_a_large_one() -> None:
    def unit(name: str, size: float, gain: float) -> Unit:
        return Unit(name, (Choice("4", 0.0, {"size": 4 * size}), Choice("3", gain, {"size": 3 * size})))

    problem = Problem((unit("large", 4.0, 1.0), *(unit(f"small{place}", 1.0, 0.1) for place in range(4))), {"size": 28.0})
    start = {"large": "3", **{f"small{place}": "4" for place in range(4)}}
    assert descend(problem, start) == {"large": "4", **{f"small{place}": "3" for place in range(4)}}


def test_a_forbidden_pair_is_not_taken() -> None:
    units = tuple(Unit(name, (Choice("4", 1.0, {"size": 1.0}), Choice("3", 0.0, {"size": 1.0}))) for name in "ab")
    problem = Problem(units, {"size": 2.0}, (Pair(("a", "3"), ("b", "3"), forbidden=True),))
    found = descend(problem, {"a": "4", "b": "4"})
    assert sorted(found.values()) == ["3", "4"]


def test_nothing_better_leaves_the_answer() -> None:
    units = (Unit("a", (Choice("4", 0.0, {"size": 4.0}), Choice("3", 1.0, {"size": 3.0}))),)
    assert descend(Problem(units, {"size": 4.0}), {"a": "4"}) == {"a": "4"}
    assert descend(Problem(units, {"size": 3.0}), {"a": "3"}) == {"a": "3"}
