"""A problem adds up what is chosen, says what is wrong with it, and survives JSON."""

from __future__ import annotations

import math

import pytest
from fxpress_ir.errors import PassError
from fxpress_passes.allocate import Choice, Pair, Problem, Unit
from hypothesis import given, settings
from problems import problems, three, unit


def test_losses_and_costs_are_sums() -> None:
    problem = three(size=14)
    chosen = {"a": "w8", "b": "w4", "c": "w8"}
    assert problem.loss(chosen) == 2
    assert problem.costs(chosen) == {"size": 16, "latency": 8}
    assert not problem.allows(chosen)
    assert problem.within({"size": 16, "latency": 8}).allows(chosen)


def test_base_is_spent_whatever_is_chosen() -> None:
    problem = Problem((unit("a", w8=(0, 4), w4=(1, 2)),), {"size": 10}, base={"size": 7, "flash": 3})
    assert problem.costs({"a": "w8"}) == {"size": 11, "flash": 3}
    assert not problem.allows({"a": "w8"})
    assert problem.allows({"a": "w4"})


def test_a_pair_counts_when_both_are_taken() -> None:
    pairs = (Pair(("a", "w4"), ("b", "w4"), 0.5, {"size": -1}), Pair(("a", "w8"), ("b", "w4"), forbidden=True))
    problem = Problem(three().units, {}, pairs)
    assert problem.loss({"a": "w4", "b": "w4", "c": "w8"}) == 3.5
    assert problem.costs({"a": "w4", "b": "w4", "c": "w8"}) == {"size": 13, "latency": 7}
    assert problem.loss({"a": "w4", "b": "w8", "c": "w8"}) == 1
    assert problem.loss({"a": "w8", "b": "w4", "c": "w8"}) == math.inf
    assert not problem.allows({"a": "w8", "b": "w4", "c": "w8"})


def test_a_budget_holds_but_for_the_rounding_of_its_sum() -> None:
    tenths = tuple(unit(name, only=(0, 0.1)) for name in "abc")
    chosen = dict.fromkeys("abc", "only")
    assert Problem(tenths, {"size": 0.3}).allows(chosen)  # the sum is 0.30000000000000004
    assert not Problem(tenths, {"size": 0.3 - 1e-9}).allows(chosen)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(problem=problems())
def test_survives_json(problem: Problem) -> None:
    again = Problem.from_json(problem.to_json())
    assert again == problem
    assert again.to_json() == problem.to_json()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"units": [{"name": "a"}]}', '{"units": [{"name": "a", "choices": [{"named": "b"}]}]}'])
def test_what_is_no_problem_is_refused(text: str) -> None:
    with pytest.raises(PassError, match=r"is no problem: .*; give what Problem\.to_json wrote"):
        Problem.from_json(text)


def test_prints_as_a_table() -> None:
    lines = str(three(size=14_000, latency=0.0025)).splitlines()
    assert lines[:2] == ["size at most 14 kB", "latency at most 2.5 ms"]
    assert lines[2].split() == ["unit", "choice", "loss", "size", "latency"]
    assert lines[3].split() == ["a", "w8", "0", "4", "B", "3", "s"]
    assert len(lines) == 9


A = unit("a", w8=(0, 4), w4=(1, 2))


@pytest.mark.parametrize(
    ("units", "budgets", "pairs", "what"),
    [
        ((A, A), {}, (), "two units are called 'a'"),
        ((Unit("a", ()),), {}, (), "unit 'a' has no choice"),
        ((Unit("a", (Choice("x", 0), Choice("x", 1))),), {}, (), "two of one name"),
        ((A, Unit("b", (Choice("x", 0),))), {}, (), "unit 'b' at 'x' has no cost of size"),
        ((A,), {"latency": 1.0}, (), "unit 'a' at 'w8' has no cost of latency"),
        ((unit("a", w8=(math.nan, 4)),), {}, (), "loss of 'a' at 'w8' is nan"),
        ((unit("a", w8=(0, math.inf)),), {}, (), "size of 'a' at 'w8' is inf"),
        ((A,), {"size": math.nan}, (), "the budget or base of size is nan"),
        ((A,), {}, (Pair(("a", "w8"), ("b", "w8")),), "a pair names 'w8' of 'b'"),
        ((A,), {}, (Pair(("a", "w8"), ("a", "w4")),), "a pair names unit 'a' twice"),
        ((A, unit("b", w8=(0, 1))), {}, (Pair(("a", "w8"), ("b", "w8"), math.inf),), "is not finite"),
        ((A, unit("b", w8=(0, 1))), {}, (Pair(("a", "w8"), ("b", "w8"), costs={"heat": 1}),), "a pair costs heat"),
    ],
)
def test_what_is_wrong_is_said(units: tuple[Unit, ...], budgets: dict[str, float], pairs: tuple[Pair, ...], what: str) -> None:
    with pytest.raises(PassError) as raised:
        Problem(units, budgets, pairs)
    assert what in str(raised.value)
    assert str(raised.value).startswith("allocate: ")
