"""A problem's answer, improved by what its choices measure together."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from itertools import product

import pytest
from fxpress.joint.search import improved
from fxpress_passes.allocate import Answer, Brute, Choice, Pair, Problem, Unit

NAMES = ("large", "middle", "small")
Loss = Callable[[Mapping[str, str]], float]


def problem(seed: int) -> Problem:
    """Three units of three choices; the smaller a choice, the more it is predicted to lose."""
    draw, units = random.Random(seed), []
    for unit in "abc":
        losses = sorted(draw.random() for _ in NAMES)
        units.append(
            Unit(
                unit, tuple(Choice(name, loss, {"size": 3.0 - place}) for place, (name, loss) in enumerate(zip(NAMES, losses, strict=True)))
            )
        )
    return Problem(tuple(units), {"size": 6.0}, (Pair(("a", "small"), ("b", "small"), 5.0, {"size": 0.5}),), {"size": 0.0})


def table(seed: int) -> Loss:
    """Losses that do not add up: a number of its own for every choice of all three."""
    draw = random.Random(seed)
    losses = {chosen: draw.random() for chosen in product(NAMES, repeat=3)}
    return lambda chosen: losses[chosen["a"], chosen["b"], chosen["c"]]


def all_allowed(own: Problem) -> list[dict[str, str]]:
    every = (dict(zip("abc", chosen, strict=True)) for chosen in product(NAMES, repeat=3))
    return [chosen for chosen in every if own.allows(chosen)]


@pytest.mark.parametrize("seed", range(8))
def test_the_answer_never_measures_worse_than_what_it_began_with(seed: int) -> None:
    own, measured = problem(seed), table(seed)
    begin = Brute().solve(own)
    found = improved(own, begin, Brute(), measured, rounds=3)
    assert found.loss == measured(found.chosen)
    assert found.loss <= measured(begin.chosen)
    assert own.allows(found.chosen)
    assert found.costs == own.costs(found.chosen)
    assert found.bound is None  # what was proved of predicted losses is not of measured ones


@pytest.mark.parametrize("seed", range(4))
def test_where_steps_add_up_and_reach_every_choice_one_round_finds_the_best(seed: int) -> None:
    own, draw = problem(seed), random.Random(100 + seed)
    losses = {(unit, name): draw.random() for unit in "abc" for name in NAMES}

    def measured(chosen: Mapping[str, str]) -> float:
        return sum(losses[item] for item in chosen.items())

    begin = Answer.of(own, dict.fromkeys("abc", "middle"), "by hand")
    found = improved(own, begin, Brute(), measured, rounds=1)
    assert found.loss == pytest.approx(min(map(measured, all_allowed(own))))


def test_it_stops_where_a_round_finds_nothing_better() -> None:
    own, asked, told = problem(0), list[dict[str, str]](), list[tuple[str, int, int]]()
    begin = Brute().solve(own)

    def measured(chosen: Mapping[str, str]) -> float:
        asked.append(dict(chosen))
        return 0.0 if chosen == begin.chosen else 1.0

    found = improved(own, begin, Brute(), measured, rounds=10, progress=lambda *step: told.append(step))
    assert found.chosen == begin.chosen
    steps = sum(1 + (begin.chosen[unit] == "middle") for unit in "abc")
    assert len(asked) == 1 + steps
    assert told == [("improving, round 1", place, steps) for place in range(1, steps + 1)]
    assert all(sum(chosen[unit] != begin.chosen[unit] for unit in "abc") <= 1 for chosen in asked)


def test_without_rounds_its_loss_is_the_measured_one() -> None:
    own, measured = problem(1), table(1)
    begin = Brute().solve(own)
    found = improved(own, begin, Brute(), measured, rounds=0)
    assert (found.chosen, found.loss) == (begin.chosen, measured(begin.chosen))
