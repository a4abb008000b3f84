"""What is not faster stays whole, and the report says so; without a measurement nothing is claimed."""

from __future__ import annotations

import pytest
from float_programs import ResidualNet, captured
from fxpress_ir import Program
from fxpress_passes import Context, PruneChannels
from fxpress_passes.prune.latency import Latency, not_slower


@pytest.fixture(scope="module")
def pair() -> tuple[Program, Program]:
    """A pruned program and the whole one."""
    program = captured(ResidualNet(), 1, 3, 8, 8)
    return PruneChannels().apply(program, Context()), program


@pytest.mark.parametrize("latency", [None, lambda program: program.cost().macs * 1e-9])
def test_what_is_faster_or_not_measured_is_taken(pair: tuple[Program, Program], latency: Latency | None) -> None:
    context = Context()
    assert not_slower(*pair, latency, context) is pair[0]
    assert context.refusals == []


@pytest.mark.parametrize("latency", [lambda _: 2e-3, lambda program: 2e-3 - program.cost().macs * 1e-12])
def test_what_is_no_faster_stays_whole(pair: tuple[Program, Program], latency: Latency) -> None:
    context = Context()
    assert not_slower(*pair, latency, context) is pair[1]
    assert str(context.refusals[0]).startswith("program: takes 2 ms pruned, 2 ms whole; it stays whole; prune more, or align")


def test_a_pass_asks_about_its_own_result(pair: tuple[Program, Program]) -> None:
    asked: list[str] = []

    def latency(program: Program) -> float:
        asked.append(program.hash)
        return float(len(asked))

    assert PruneChannels(latency=latency).apply(pair[1], Context()) is pair[1]
    assert asked == [pair[1].hash, pair[0].hash]


def test_nothing_is_measured_where_nothing_was_pruned(pair: tuple[Program, Program]) -> None:
    assert PruneChannels(ratio=0.0, latency=lambda _: pytest.fail("it measured")).apply(pair[1], Context()) is pair[1]
