"""Tied units become one: it chooses alike, loses and costs the sums, and answers for all of its members."""

from __future__ import annotations

import pytest
from fxpress_ir.errors import PassError
from fxpress_passes.allocate import Brute, Pair, Problem, tie
from fxpress_passes.allocate.ties import union
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import choose, problems, three, unit


def test_before_and_after() -> None:
    tied = tie(three(size=14), [("a", "c")])
    assert tied == Problem(
        (
            type(tied.units[0])("a", unit("a", w8=(0, 12, 6), w4=(5, 6, 4)).choices, ("a", "c")),
            unit("b", w8=(0, 8, 3), w4=(2, 4, 2)),
        ),
        {"size": 14},
    )


def test_groups_that_meet_are_one() -> None:
    assert union("abcdef", [("b", "d"), ("e", "f"), ("d", "a")]) == [["a", "b", "d"], ["c"], ["e", "f"]]
    tied = tie(tie(three(), [("a", "b")]), [("b", "c")])  # a member stands for its unit
    assert [each.members for each in tied.units] == [("a", "b", "c")]
    assert tied == tie(three(), [("a", "b", "c")])


def test_only_choices_that_all_have_are_left() -> None:
    problem = Problem((unit("a", w16=(0, 4), w8=(1, 3), w4=(2, 2)), unit("b", w4=(7, 1), w8=(5, 2))))
    assert tie(problem, [("a", "b")]).units[0].choices == unit("a", w8=(6, 5), w4=(9, 3)).choices


def test_pairs_between_members_become_part_of_the_choices_and_others_move() -> None:
    pairs = (
        Pair(("a", "w4"), ("b", "w4"), 0.5, {"size": -1}),
        Pair(("a", "w8"), ("b", "w4"), 9),
        Pair(("b", "w8"), ("c", "w4"), 0.25),
        Pair(("a", "w8"), ("b", "w8"), forbidden=True),
    )
    tied = tie(Problem(three().units, {}, pairs), [("a", "b")])
    assert tied.units[0].choices == unit("a", w4=(3.5, 5, 4)).choices
    assert tied.pairs == ()
    loose = tie(Problem(three().units, {}, pairs[:3]), [("a", "b")])
    assert loose.pairs == (Pair(("a", "w8"), ("c", "w4"), 0.25),)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(problem=problems(), places=st.lists(st.integers(0, 3), min_size=5, max_size=5), data=st.data())
def test_a_tied_answer_is_the_same_answer_untied(problem: Problem, places: list[int], data: st.DataObject) -> None:
    groups = [data.draw(st.permutations([each.name for each in problem.units])) for _ in range(2)]
    try:
        tied = tie(problem, [group[: 1 + place % 3] for group, place in zip(groups, places, strict=False)])
    except PassError:  # no choice in common
        return
    chosen = choose(tied, places)
    untied = tied.decisions(chosen)
    assert set(untied) == {each.name for each in problem.units}
    assert tied.loss(chosen) == pytest.approx(problem.loss(untied), rel=1e-12)
    costs = problem.costs(untied)
    assert tied.costs(chosen) == pytest.approx(costs, rel=1e-12, abs=1e-12 * max([1, *costs.values()]))


def test_a_tie_costs_loss_and_never_gains() -> None:
    free = Brute().solve(three(size=14)).loss
    assert free == 3  # a and b at 4 bits
    assert Brute().solve(tie(three(size=14), [("b", "c")])).loss == 6


@pytest.mark.parametrize(
    ("groups", "what"),
    [
        ([("a", "z")], "a tie names 'z', which is no unit; one of a, b"),
        ([("a", "b")], "a, b are tied and have no choice in common; give them one"),
    ],
)
def test_what_cannot_be_tied_is_refused(groups: list[tuple[str, str]], what: str) -> None:
    problem = Problem((unit("a", w8=(0, 4)), unit("b", w4=(0, 4))))
    with pytest.raises(PassError) as raised:
        tie(problem, groups)
    assert what in str(raised.value)
