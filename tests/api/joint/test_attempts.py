"""Answers that break a budget when measured are aimed lower; what holds by its interval is not lost."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fxpress.joint.attempts import Search
from fxpress.joint.built import Built, How, Weighing
from fxpress.joint.chooser import Chooser
from fxpress.joint.goal import Budget
from fxpress_ir.errors import InfeasibleError
from fxpress_passes.allocate import Answer, Measured

ASKED = [Budget("latency", 10.0, True)]


class Exact(Chooser):
    """Predicts what it is asked for, and notes it in `aims`; after the script's end nothing."""

    script: list[tuple[float, float, float] | None]
    aims: list[float]

    @classmethod
    def of(cls, script: list[tuple[float, float, float] | None]) -> Exact:
        none: Any = None
        found = cls(none, {}, {}, none, none, none)
        object.__setattr__(found, "script", script)
        object.__setattr__(found, "aims", [])
        return found

    def answer(self, aims: Mapping[str, float], weighing: Weighing) -> Answer:
        self.aims.append(aims["latency"])
        if self.script[0] is None:
            raise InfeasibleError("latency at most so much cannot be held")
        chosen, latency = {"unit": str(len(self.aims)), "weight": str(weighing.weight)}, aims["latency"]
        return Answer(chosen, {}, 1 / latency, {"latency": latency}, dict(aims), "milp")


class Scripted(Search):
    """Measures what the script says: a figure and the ends of its interval, for answers in order."""

    def __init__(self, *script: tuple[float, float, float] | None, weights: Mapping[float, float] | None = None) -> None:
        self._how, self._script = How(attempts=4), list(script)
        self._chooser = Exact.of(self._script)
        self.float_size, self.float_seconds, self._candidates, self._attempts = 1, 1.0, {}, {}
        self._space = cast(Any, SimpleNamespace(families=("bits",)))
        self._losses_of, none = weights or {1.0: 0.0}, cast(Any, None)
        self._judge, self._data = cast(Any, Scores()), none

    @property
    def aims(self) -> list[float]:
        return cast(Exact, self._chooser).aims

    def _weighings(self) -> tuple[Weighing, ...]:
        return tuple(map(Weighing, self._losses_of))

    def _alone(self) -> tuple[str, ...]:
        return ()

    def _built(self, chosen: Mapping[str, str], training: Any, steps: int | None = None, timed: bool = True) -> Built:
        none: Any = None
        plan: Any = SimpleNamespace(changes_structure=True)
        program: Any = SimpleNamespace(loss=self._losses_of[float(chosen["weight"])], data=training)
        if not timed:
            return Built(plan, program, (), none, {}, None)
        found = self._script.pop(0)
        assert found is not None
        return Built(plan, program, (), none, {"latency": Measured(*found)}, None, Measured(20.0, 19.0, 21.0))


class Scores:
    """Judges programs by the loss that they bring."""

    training = "all but some"

    def loss(self, program: Any) -> float:
        return float(program.loss)


def test_what_uses_the_budget_is_taken_at_once() -> None:
    search = Scripted((9.6, 8.0, 11.0), (1.0, 1.0, 1.0))
    answer, built = search.within(ASKED)
    assert (answer.chosen["unit"], built.measured["latency"].value) == ("1", 9.6)
    assert answer.budgets == {"latency": 10.0}


def test_what_leaves_more_than_prediction_said_is_asked_for_again() -> None:
    search = Scripted((8.0, 7.5, 8.5), (9.8, 9.5, 10.2))
    answer, _ = search.within(ASKED)
    assert answer.chosen["unit"] == "2"
    assert search.aims[1] == pytest.approx(12.5, rel=0.01)


def test_what_was_asked_for_again_and_broke_the_budget_is_not_taken() -> None:
    search = Scripted((8.0, 7.5, 8.5), (11.0, 10.5, 11.5), (9.0, 8.8, 9.2), None)
    answer, _ = search.within(ASKED)
    assert answer.chosen["unit"] == "3", "it is predicted to lose less than the first and holds"
    assert search.aims[0] < search.aims[2] < search.aims[1]


def test_a_broken_budget_is_aimed_at_lower_by_what_prediction_was_short() -> None:
    search = Scripted((12.5, 12.0, 13.0), (9.9, 9.5, 10.2))
    answer, _ = search.within(ASKED)
    assert answer.chosen["unit"] == "2"
    assert search.aims[0] == 10.0
    assert search.aims[1] == pytest.approx(8.0, rel=0.01)


def test_what_holds_by_its_interval_stays_where_less_cannot_be_aimed_at() -> None:
    answer, built = Scripted((10.4, 9.8, 11.0), None).within(ASKED)
    assert (answer.chosen["unit"], built.measured["latency"].low) == ("1", 9.8)


def test_of_attempts_that_all_break_it_the_nearest_is_taken() -> None:
    answer, _ = Scripted((14.0, 13.0, 15.0), (11.0, 10.5, 12.0), (12.0, 11.0, 13.0), (13.0, 12.0, 14.0)).within(ASKED)
    assert answer.chosen["unit"] == "2"


def test_without_any_answer_the_line_says_so() -> None:
    with pytest.raises(InfeasibleError, match="cannot be held"):
        Scripted(None).within(ASKED)


def test_of_answers_that_hold_the_budget_that_is_taken_which_loses_least() -> None:
    weights = {1.0: 0.3, 0.1: 0.2, 0.01: 0.1}
    search = Scripted((9.6, 8.0, 9.9), (9.6, 8.0, 9.9), (13.0, 12.0, 14.0), None, weights=weights)
    answer, built = search.within(ASKED)
    assert answer.chosen["weight"] == "0.1", "the third broke the budget"
    program: Any = built.program
    assert program.data is search._data, "built again with the data on which answers were judged"
    assert built.measured["latency"].value == 9.6


def test_an_absolute_latency_is_held_to_the_time_that_the_artifact_took() -> None:
    _, built = Scripted((9.0, 8.0, 9.5), None).within([Budget("latency", 30.0, False)])
    assert built.measured["latency"].value == 20.0
