"""A problem without an answer says which budgets bind, and the nearest values; with those there is an answer."""

from __future__ import annotations

from itertools import combinations

import pytest
from fxpress_ir.errors import InfeasibleError, PassError
from fxpress_passes.allocate import Brute, Milp, Pair, Problem
from fxpress_passes.allocate.infeasible import is_feasible, least_cost
from hypothesis import given, settings
from problems import problems, three, unit


def refused(problem: Problem) -> InfeasibleError:
    with pytest.raises(InfeasibleError) as raised:
        Milp().solve(problem)
    return raised.value


def test_one_budget_below_the_least_there_is() -> None:
    error = refused(three(size=9))
    assert str(error) == "allocate: size at most 9 B cannot be held; the nearest is size 10 B"
    assert (error.binding, error.nearest) == (("size",), {"size": 10})


def test_a_budget_that_holds_does_not_bind() -> None:
    error = refused(three(latency=9, size=9))
    assert (error.binding, error.nearest) == (("size",), {"size": 10})


def apart() -> Problem:
    """What is small is slow."""
    return Problem((unit("a", small=(0, 2, 8), fast=(0, 8, 2)), unit("b", small=(0, 2, 8), fast=(0, 8, 2))))


def test_budgets_that_exclude_each_other_and_what_each_alone_would_have_to_be() -> None:
    error = refused(apart().within({"size": 5, "latency": 5}))
    line = "allocate: size at most 5 B and latency at most 5 s cannot be held together; the nearest is size 16 B or latency 16 s"
    assert str(error) == line
    assert error.binding == ("size", "latency")
    # 10 and 10 exceed both by as much together as 16 one of them by itself does, 11 fifths
    assert sum(value / 5 - 1 for value in error.nearest.values()) == pytest.approx(2)
    assert Milp().solve(apart().within({"size": 16, "latency": 5})).costs == {"size": 16, "latency": 4}


def test_two_budgets_that_each_bind() -> None:
    error = refused(three(size=9, latency=5))
    assert str(error) == "allocate: size at most 9 B and latency at most 5 s cannot be held; the nearest is size 10 B and latency 6 s"
    assert (error.binding, error.nearest) == (("size", "latency"), {"size": 10, "latency": 6})


def test_a_third_budget_is_left_out() -> None:
    pairs = tuple(unit(name, small=(0, 2, 8, 1), fast=(0, 8, 2, 1)) for name in "ab")
    error = refused(Problem(pairs, {"macs": 2, "size": 5, "latency": 5}))
    assert error.binding == ("size", "latency")
    assert "macs" not in error.nearest


def test_forbidden_pairs_alone() -> None:
    barred = tuple(Pair(("a", one), ("b", other), forbidden=True) for one in ("w8", "w4") for other in ("w8", "w4"))
    error = refused(Problem(three().units, {"size": 14}, barred))
    assert str(error) == "allocate: forbidden pairs exclude every answer; forbid fewer pairs"
    assert (error.binding, error.nearest) == ((), {})


@settings(deadline=None, derandomize=True, max_examples=12)
@given(problem=problems())
def test_nearest_values_can_be_held_and_what_binds_binds(problem: Problem) -> None:
    tighter = problem.within({name: limit * 0.7 for name, limit in problem.budgets.items()})
    try:
        Brute().solve(tighter)
    except InfeasibleError as error:
        assert not is_feasible(tighter)
        found = error
    else:
        assert is_feasible(tighter)
        return
    if not found.binding:
        assert not is_feasible(problem.within({}))
        return
    assert is_feasible(tighter.within({**tighter.budgets, **found.nearest}))
    assert not is_feasible(tighter.within({name: tighter.budgets[name] for name in found.binding}))
    assert all(value > tighter.budgets[name] for name, value in found.nearest.items())
    alone = [name for name in found.binding if not is_feasible(tighter.within({name: tighter.budgets[name]}))]
    if alone:
        assert tuple(alone) == found.binding
        return
    for names in combinations(found.binding, len(found.binding) - 1):
        assert is_feasible(tighter.within({name: tighter.budgets[name] for name in names}))


def test_the_least_of_a_resource_while_others_hold() -> None:
    assert least_cost(apart(), "size") == 4
    assert least_cost(apart().within({"latency": 10}), "size") == 10
    assert least_cost(apart().within({"latency": 10, "size": 1}), "size") == 10
    with pytest.raises(InfeasibleError, match="latency at most 3 s cannot be held; the nearest is latency 4 s"):
        least_cost(apart().within({"latency": 3}), "size")


def test_it_is_an_error_of_passes() -> None:
    assert issubclass(InfeasibleError, PassError)
