"""Steps are taken in the order of what they lose for what they save."""

from __future__ import annotations

from fxpress_passes.allocate import Pair, Problem
from fxpress_passes.allocate.steps import path
from problems import three, unit


def bits(problem: Problem) -> list[str]:
    return ["".join(choice[-1] for choice in answer.values()) for answer in path(problem)]


def test_the_cheapest_loss_for_what_it_saves_goes_first() -> None:
    # losses for a byte saved: a 1/2, b 2/4, c 4/4; of equal ones the first
    assert bits(three(size=0)) == ["888", "488", "448", "444"]
    # each saves as much time
    assert bits(three(latency=7)) == ["888", "488", "448"]


def test_what_a_step_saves_beyond_the_budget_does_not_count() -> None:
    problem = Problem((unit("a", w8=(0, 100), w4=(1.5, 0)), unit("b", w8=(0, 10), w4=(1, 0))), {"size": 100})
    assert bits(problem) == ["88", "84"]


def test_a_step_back_that_fits_is_taken() -> None:
    problem = Problem((unit("a", w8=(0, 4), w4=(1, 0)), unit("b", w8=(0, 10), w4=(4, 0))), {"size": 5})
    # 14 bytes: a saves 4 for 1, then b is needed anyway, and a fits again
    assert bits(problem) == ["88", "48", "44", "84"]


def test_pairs_are_part_of_a_step() -> None:
    units = three().units
    together = Pair(("a", "w4"), ("b", "w4"), 10)
    assert bits(Problem(units, {"latency": 7}, (together,))) == ["888", "488", "484"]
    barred = Pair(("a", "w8"), ("b", "w8"), forbidden=True)
    assert bits(Problem(units, {}, (barred,))) == ["888", "488"]
