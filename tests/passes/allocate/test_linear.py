"""A problem as a linear program: its matrices, and what HiGHS's tolerances let through is cut off."""

from __future__ import annotations

import time
from itertools import product

import numpy as np
import pytest
from fxpress_ir.errors import PassError
from fxpress_passes.allocate import Pair, Problem, linear
from fxpress_passes.allocate.linear import best, minimise
from fxpress_passes.allocate.linear import linear as program_of
from hypothesis import given, settings
from problems import problems, three, unit
from scipy.optimize import OptimizeResult


def test_one_choice_a_unit() -> None:
    model = program_of(three(size=14))
    assert model.equal.toarray().tolist() == [[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]]
    assert model.right.tolist() == [1, 1, 1]
    assert model.loss.tolist() == [0, 1, 0, 2, 0, 4]
    assert model.costs["size"].tolist() == [4, 2, 8, 4, 8, 4]


def test_products_of_two_units_sum_to_their_binaries() -> None:
    problem = Problem((unit("a", x=(0,), y=(0,)), unit("b", x=(0,), y=(0,))), {}, (Pair(("b", "y"), ("a", "x"), 3, forbidden=True),))
    model = program_of(problem)
    # a.x a.y b.x b.y, then a.x b.x, a.x b.y, a.y b.x, a.y b.y in the order of the pair's units
    where = {tuple(sorted(pair)): place for pair, place in model.products.items()}
    assert sorted(where.values()) == [4, 5, 6, 7]
    assert model.loss[where[("a", "x"), ("b", "y")]] == 3
    assert model.upper.tolist().count(0) == 1
    for row, right in zip(model.equal.toarray(), model.right, strict=True):
        for one, other in product("xy", repeat=2):
            x = np.zeros(8)
            x[[model.columns["a", one], model.columns["b", other], where[("a", one), ("b", other)]]] = 1
            assert row @ x == right


@settings(deadline=None, derandomize=True, max_examples=20)
@given(problem=problems(most_budgets=0))
def test_the_least_loss_is_that_of_the_problem(problem: Problem) -> None:
    model = program_of(problem)
    found = minimise(model, model.loss, ())
    if found.chosen is not None:
        assert problem.loss(found.chosen) == pytest.approx(found.bound, rel=1e-9, abs=1e-9 * np.abs(model.loss).max())


def test_an_answer_is_cut_off_or_held_fast() -> None:
    model = program_of(three())
    everything = dict.fromkeys("abc", "w8")
    assert minimise(model, model.loss, ()).chosen == everything
    assert minimise(model.without(everything), model.loss, ()).chosen == {**everything, "a": "w4"}
    assert minimise(model.fixed({"c": "w4"}), model.loss, ()).chosen == {**everything, "c": "w4"}
    assert minimise(model.fixed({"c": "w4"}).without({**everything, "c": "w4"}), model.loss, ()).bound == pytest.approx(5)


def test_what_is_not_accepted_is_cut_off_until_something_is() -> None:
    model = program_of(three())
    cut, found = best(model, model.loss, (), lambda chosen: chosen["c"] == "w4")
    assert found.chosen == {"a": "w8", "b": "w8", "c": "w4"}
    assert len(cut.cuts) == 4  # what loses less than 4
    assert best(cut, model.loss, (), lambda chosen: chosen["c"] == "w8")[1].chosen is None


def test_it_is_given_up_after_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_ATTEMPTS", 3)
    model = program_of(three())
    with pytest.raises(PassError, match=r"3 answers exceed a budget by rounding alone; solve by dynamic"):
        best(model, model.loss, (), lambda chosen: False)


@pytest.mark.parametrize(("status", "what"), [(1, "no answer was found in time; allow more seconds"), (4, "HiGHS gave up: it is ill; ")])
def test_what_highs_cannot_do_is_said(monkeypatch: pytest.MonkeyPatch, status: int, what: str) -> None:
    monkeypatch.setattr(linear, "milp", lambda *_, **__: OptimizeResult(status=status, x=None, message="it is ill"))
    model = program_of(three())
    with pytest.raises(PassError) as raised:
        minimise(model, model.loss, (), deadline=time.monotonic() + 1)
    assert what in str(raised.value)
