"""An answer says how good it is known to be, prints, and is a plan that needs neither problem nor search."""

from __future__ import annotations

import math

import pytest
from fxpress_ir.errors import PassError
from fxpress_passes.allocate import Answer, Milp, tie
from problems import three

CHOSEN = {"a": "w8", "b": "w4", "c": "w8"}


def test_the_gap_is_a_share_of_the_loss() -> None:
    assert Answer.of(three(), CHOSEN, "by hand").gap is None
    assert Answer.of(three(), CHOSEN, "by hand", bound=2).gap == 0
    assert Answer.of(three(), CHOSEN, "by hand", bound=1.5).gap == 0.25
    assert Answer.of(three(), CHOSEN, "by hand", bound=2.5).gap == 0  # a bound above what was found is rounding
    assert Answer.of(three(), dict.fromkeys("abc", "w8"), "by hand", bound=-1).gap == math.inf


def test_a_plan_replays_from_its_text() -> None:
    problem = tie(three(size=14), [("a", "c")])
    answer = Milp().solve(problem)
    again = Answer.from_json(answer.to_json())
    assert again == answer
    assert list(again.decisions.items()) == [("a", "w4"), ("c", "w4"), ("b", "w8")]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"chosen": {}}'])
def test_what_is_no_answer_is_refused(text: str) -> None:
    with pytest.raises(PassError, match=r"is no answer: .*; give what Answer\.to_json wrote"):
        Answer.from_json(text)


def test_a_choice_that_is_no_name_is_refused() -> None:
    text = Answer.of(three(), CHOSEN, "by hand").to_json().replace('"w4"', "4")
    with pytest.raises(PassError, match="choices are names"):
        Answer.from_json(text)


def test_prints_figures_and_decisions() -> None:
    lines = str(Answer.of(three(size=20_000), CHOSEN, "by hand", bound=1.5, seconds=0.25)).splitlines()
    assert lines[:3] == ["by hand: loss 2, gap 0.25, 0.250 s", "size 16 B of 20 kB (0.1%)", "latency 8 s"]
    assert [line.split() for line in lines[3:]] == [["decision", "choice"], ["a", "w8"], ["b", "w4"], ["c", "w8"]]
