"""Of equal answers one is named by a rule."""

from __future__ import annotations

from fxpress_passes.allocate import Problem
from fxpress_passes.allocate.solver import equal_losses, first_of_equals
from problems import three, unit


def test_equal_is_within_a_billionth() -> None:
    assert equal_losses(2.0) == 2.0 + 2e-9
    assert equal_losses(-2.0) == -2.0 + 2e-9
    assert equal_losses(0.0) == 0.0


def test_loss_goes_before_costs_and_costs_before_places() -> None:
    same = Problem((unit("a", x=(1, 5, 1), y=(1, 4, 2), z=(0, 9, 9)), unit("b", x=(1, 5, 1), y=(1, 4, 2))), {"latency": 99, "size": 99})
    answers = [{"a": one, "b": other} for one in "xy" for other in "xy"]
    assert first_of_equals(same, answers) == {"a": "x", "b": "x"}  # the first budget is latency's
    assert first_of_equals(same.within({"size": 99}), answers) == {"a": "y", "b": "y"}
    assert first_of_equals(same.within({}), reversed(answers)) == {"a": "x", "b": "x"}
    assert first_of_equals(same, [*answers, {"a": "z", "b": "y"}]) == {"a": "z", "b": "y"}


def test_a_loss_that_is_larger_by_more_loses() -> None:
    problem = three()
    assert first_of_equals(problem, [dict.fromkeys("abc", "w4"), dict.fromkeys("abc", "w8")]) == dict.fromkeys("abc", "w8")
