"""What is not found faster stays whole, with the reason in the report, whichever pass it was; nothing is claimed unmeasured."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from encoder import encoder_program
from float_programs import Chain, ResidualNet, captured
from fxpress_ir import Program
from fxpress_passes import Context, Factorize, Pass, PruneBlocks, PruneChannels, PruneHeads, PruneWidth, Sparsify
from fxpress_passes.latency import Latency, TimeRatio, not_slower, time_ratio
from fxpress_passes.pipeline import Pipeline
from torch import nn


class Measured:
    """An `Interleaved` that gives one answer and counts how often it is asked."""

    def __init__(self, *ratio: float) -> None:
        self.found, self.asked = TimeRatio(*ratio), 0

    def ratio(self, program: Program, parent: Program) -> TimeRatio:
        self.asked += 1
        return self.found


@pytest.fixture(scope="module")
def pair() -> tuple[Program, Program]:
    """A pruned program and the whole one."""
    program = captured(ResidualNet(), 1, 3, 8, 8)
    return PruneChannels().apply(program, Context()), program


@pytest.mark.parametrize("latency", [None, lambda program: program.cost().macs * 1e-9, Measured(0.9, 0.85, 0.99)])
def test_what_is_faster_or_not_measured_is_taken(pair: tuple[Program, Program], latency: Latency | None) -> None:
    context = Context()
    assert not_slower(*pair, latency, context) is pair[0]
    assert context.refusals == []


@pytest.mark.parametrize(
    ("latency", "said"),
    [
        (lambda _: 2e-3, "1.000"),
        (lambda program: 2e-3 - program.cost().macs * 1e-12, "1.0"),
        (Measured(1.2, 1.1, 1.3), "1.200 [1.100, 1.300]"),
        (Measured(0.95, 0.9, 1.02), "0.950 [0.900, 1.020]"),
    ],
)
def test_what_is_not_surely_faster_stays_whole(pair: tuple[Program, Program], latency: Latency, said: str) -> None:
    context = Context()
    assert not_slower(*pair, latency, context) is pair[1]
    (refusal,) = map(str, context.refusals)
    assert refusal.startswith(f"program: made smaller it takes {said}")
    assert refusal.endswith("of its parent's time; it stays as it was; take more away, or align to what the target computes at once")


def test_seconds_are_asked_of_both(pair: tuple[Program, Program]) -> None:
    asked: list[str] = []

    def latency(program: Program) -> float:
        asked.append(program.hash)
        return float(len(asked))

    assert time_ratio(*pair, latency) == TimeRatio(0.5, 0.5, 0.5)
    assert asked == [pair[0].hash, pair[1].hash]


def _low_rank() -> Program:
    torch.manual_seed(0)
    layer = nn.Linear(16, 16)
    layer.weight.data = torch.randn(16, 2) @ torch.randn(2, 16)
    return captured(Chain(layer, nn.ReLU(), nn.Linear(16, 4)), 1, 16)


EMITTING: list[tuple[Pass, Callable[[], Program]]] = [
    (PruneChannels(), encoder_program),
    (PruneHeads(ratio=0.5), encoder_program),
    (PruneWidth(ratio=0.5), encoder_program),
    (PruneBlocks(ratio=0.5, score="random"), encoder_program),
    (Factorize(energy=1.0), _low_rank),
]


@pytest.mark.parametrize(("item", "build"), EMITTING, ids=[item.name for item, _ in EMITTING])
def test_each_pass_that_makes_programs_smaller_is_held_to_it(item: Pass, build: Callable[[], Program]) -> None:
    program = build()
    slower, faster = Measured(1.1, 1.05, 1.2), Measured(0.5, 0.4, 0.6)
    result = Pipeline([item]).run(program, latency=slower)
    assert result.program.hash == program.hash
    step = result.report.steps[-1]
    assert not step.fired
    assert "program: made smaller it takes 1.100 [1.050, 1.200] of its parent's time; it stays" in str(result.report)
    taken = Pipeline([item]).run(program, latency=faster)
    assert taken.program.cost().macs < program.cost().macs
    assert "    made smaller it takes 0.500 [0.400, 0.600] of its parent's time" in str(taken.report).splitlines()
    assert (slower.asked, faster.asked) == (1, 1)


def test_a_pass_s_own_measurement_goes_before_the_pipeline_s(pair: tuple[Program, Program]) -> None:
    never = Measured(2, 2, 2)
    result = Pipeline([PruneChannels(latency=Measured(0.5, 0.5, 0.5))]).run(pair[1], latency=never)
    assert result.program.hash == pair[0].hash
    assert never.asked == 0


def test_nothing_is_measured_where_nothing_gets_smaller(pair: tuple[Program, Program]) -> None:
    never = Measured(2, 2, 2)
    assert PruneChannels(ratio=0.0, latency=never).apply(pair[1], Context()) is pair[1]
    zeros = Pipeline([Sparsify(score="magnitude", skip_ends=False)]).run(pair[1], latency=never)  # zeros claim no speed
    assert zeros.report.steps[0].fired
    assert never.asked == 0
