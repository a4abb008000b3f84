"""A budget holds where what was measured reaches down to it; what prediction was off by is said."""

from __future__ import annotations

import pytest
from fxpress_ir.errors import PassError
from fxpress_passes.allocate import Answer, Measured, Milp, remeasured
from problems import three


@pytest.fixture
def answer() -> Answer:
    return Milp().solve(three(size=14, latency=8))  # takes 14 and 7


@pytest.mark.parametrize(
    ("latency", "broken"), [(Measured(7.5, 7, 8), ()), (Measured(8.4, 7.9, 9), ()), (Measured(8.4, 8.1, 9), ("latency",))]
)
def test_a_budget_holds_within_the_interval(answer: Answer, latency: Measured, broken: tuple[str, ...]) -> None:
    assert remeasured(answer, {"latency": latency, "size": Measured.exactly(14)}).broken == broken


def test_what_is_exact_has_to_hold_exactly(answer: Answer) -> None:
    assert remeasured(answer, {"latency": Measured.exactly(8), "size": Measured.exactly(15)}).broken == ("size",)


def test_the_error_of_prediction(answer: Answer) -> None:
    found = remeasured(answer, {"latency": Measured(8.75, 8.5, 9), "size": Measured.exactly(14)})
    assert found.error("latency") == pytest.approx(0.2)
    assert found.error("size") == 0
    assert [line.split() for line in str(found).splitlines()] == [
        ["resource", "predicted", "measured", "interval", "error", "budget", "holds"],
        ["latency", "7", "s", "8.75", "s", "8.5", "s", "to", "9", "s", "+20.0%", "8", "s", "no"],
        ["size", "14", "B", "14", "B", "14", "B", "to", "14", "B", "+0.0%", "14", "B", "yes"],
    ]


@pytest.mark.parametrize(
    ("measured", "what"),
    [
        ({"size": Measured.exactly(14)}, "latency has a budget and was not measured; measure latency"),
        ({"size": Measured.exactly(14), "latency": Measured(7, 7.5, 8)}, "latency of 7 is not in its interval 7.5 to 8"),
        ({"size": Measured.exactly(14), "latency": Measured.exactly(0)}, "or not positive"),
        (
            {"size": Measured.exactly(14), "latency": Measured.exactly(7), "heat": Measured.exactly(1)},
            "heat was measured and not predicted; one of size, latency",
        ),
    ],
)
def test_what_was_not_measured_is_refused(answer: Answer, measured: dict[str, Measured], what: str) -> None:
    with pytest.raises(PassError) as raised:
        remeasured(answer, measured)
    assert what in str(raised.value)
