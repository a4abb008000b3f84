"""Texts of the command line ==> budgets and a floor."""

from __future__ import annotations

import pytest
from fxpress.joint.goal import Budget, budgets, floor
from fxpress_ir.errors import PipelineError


def test_shares_and_units() -> None:
    found = budgets(["latency=0.77x", "size=120kB"])
    assert found == (Budget("latency", 0.77, True), Budget("size", 120e3, False))
    assert found[0].within(2e-3) == pytest.approx(1.54e-3)
    assert found[1].within(1e9) == 120e3
    assert budgets(["latency=1.5ms"])[0].value == pytest.approx(1.5e-3)
    assert budgets(["size=2MiB"])[0].value == 2 * 2**20
    assert str(budgets(["size=0.15x"])[0]) == "size=0.15x"


@pytest.mark.parametrize("text", ["latency", "latency=0.77", "latency=0x", "speed=2x", "size=1.5ms", "latency=-1x", "size=0.1 x"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(PipelineError, match="is no budget; write it so"):
        budgets([text])


def test_two_of_one_resource_are_refused() -> None:
    with pytest.raises(PipelineError, match="two budgets of size"):
        budgets(["size=0.5x", "size=10kB"])


def test_a_floor_is_in_points() -> None:
    assert floor(["accuracy=-0.5"]) == -0.5
    assert floor([]) is None


@pytest.mark.parametrize("texts", [["accuracy"], ["top1=-1"], ["accuracy=-1", "accuracy=-2"], ["accuracy=-0.5%"]])
def test_other_floors_are_refused(texts: list[str]) -> None:
    with pytest.raises(PipelineError, match="is no floor"):
        floor(texts)
