"""A front: best answers under a sweep of one budget, none of which another beats."""

from __future__ import annotations

import pytest
from fxpress_ir.errors import InfeasibleError, PassError
from fxpress_passes.allocate import Answer, Brute, Dynamic, Front, Greedy, Milp, Pair, Problem, front
from fxpress_passes.allocate.pareto import undominated
from hypothesis import given, settings
from problems import problems, three, unit


def test_from_the_least_to_where_more_gains_nothing() -> None:
    found = front(three(), "size", points=11)
    assert [answer.costs["size"] for answer in found.answers] == [10, 12, 14, 16, 18, 20]
    assert [answer.loss for answer in found.answers] == [7, 6, 3, 2, 1, 0]
    by_sums = front(three(size=1), "size", points=11, solver=Dynamic())
    assert [answer.chosen for answer in by_sums.answers] == [answer.chosen for answer in found.answers]


@settings(deadline=None, derandomize=True, max_examples=8)
@given(problem=problems(exactly=1, pairs=False))
def test_every_answer_is_on_the_frontier(problem: Problem) -> None:
    every = [(answer.costs["size"], answer.loss) for answer in Dynamic().frontier(problem, "size")]
    found = [(answer.costs["size"], answer.loss) for answer in front(problem, "size", points=5).answers]
    assert found[0] == pytest.approx(every[0])
    assert found[-1] == pytest.approx(every[-1])
    assert all(any(answer == pytest.approx(other) for other in every) for answer in found)


def test_other_budgets_hold_in_every_answer() -> None:
    found = front(three(latency=8, size=1), "size", points=9)
    assert all(answer.costs["latency"] <= 8 and set(answer.budgets) == {"size", "latency"} for answer in found.answers)
    assert [answer.loss for answer in found.answers] == [7, 6, 3, 2, 1]


def test_given_limits_that_cannot_be_held_are_left_out() -> None:
    assert [answer.loss for answer in front(three(), "size", limits=[5, 13, 16, 99]).answers] == [6, 2, 0]


def test_an_answer_is_read_off() -> None:
    found = front(three(), "size", points=11)
    assert found.within(15.9).loss == 3
    assert found.within(10).loss == 7
    assert found.within(1e6).loss == 0
    with pytest.raises(InfeasibleError, match=r"no answer on the front has size at most 9 B; the nearest is 10 B") as raised:
        found.within(9)
    assert raised.value.nearest == {"size": 10}


def test_what_another_answer_beats_is_left_out() -> None:
    problem = Problem((unit("a", x=(0, 4), y=(1, 2), z=(1, 3), v=(2, 2)),))
    answers = [Answer.of(problem, {"a": name}, "by hand") for name in "xyzv"]
    assert [answer.chosen["a"] for answer in undominated(answers, "size")] == ["y", "x"]


def test_heuristic_answers_that_are_beaten_are_left_out() -> None:
    problem = Problem(three().units, {}, (Pair(("a", "w4"), ("b", "w4"), 5),))
    losses = [answer.loss for answer in front(problem, "size", points=11, solver=Greedy()).answers]
    assert losses == sorted(losses, reverse=True)
    best = front(problem, "size", points=11, solver=Brute())
    assert all(Greedy().solve(problem.within(answer.budgets)).loss >= answer.loss for answer in best.answers)


def test_survives_json_and_prints() -> None:
    found = front(three(), "size", points=4)
    assert Front.from_json(found.to_json()) == found
    assert [line.split()[0] for line in str(found).splitlines()] == ["size", *(f"{each.costs['size']:g}" for each in found.answers)]
    with pytest.raises(PassError, match=r"is no front: .*; give what Front\.to_json wrote"):
        Front.from_json('{"resource": "size"}')


def test_what_cannot_be_swept_is_refused() -> None:
    with pytest.raises(PassError, match="'heat' is no resource; one of size, latency"):
        front(three(), "heat")
    with pytest.raises(InfeasibleError, match="size at most 9 B cannot be held; the nearest is size 10 B"):
        front(three(), "size", limits=[8, 9])
    with pytest.raises(InfeasibleError, match="latency at most 1 s cannot be held; the nearest is latency 6 s"):
        front(three(latency=1), "size")


def test_an_answer_that_takes_less_is_not_sought_again() -> None:
    class Counting(Milp):
        asked = 0

        def solve(self, problem: Problem) -> Answer:
            Counting.asked += 1
            return super().solve(problem)

    assert len(front(three(), "size", points=101, solver=Counting()).answers) == 6
    assert Counting.asked == 7
