"""Batch norms behind what was pruned: measured anew later, or the report says what to add."""

from __future__ import annotations

import pytest
from encoder import encoder_program
from float_programs import ResidualNet, captured, sample
from fxpress_passes import Context, PruneBlocks, PruneChannels
from fxpress_passes.pipeline import Pipeline

STALE = "batch_norm: it normalises by statistics of the whole program, and 2 more; put reestimate-batch-norm behind, with calibration data"


def _said(text: str) -> list[str]:
    program = captured(ResidualNet(), 1, 3, 8, 8)
    result = Pipeline.parse(text).run(program, calibration=[sample(program, 8, seed) for seed in range(2)])
    return [str(refusal) for step in result.report.steps for refusal in step.refusals if "statistics" in str(refusal)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prune-channels", [STALE]),
        ("prune-channels, fold-batch-norm", [STALE]),
        ("reestimate-batch-norm, prune-channels", [STALE]),
        ("prune-channels, reestimate-batch-norm, prune-channels{ratio=0.25}", [STALE]),
        ("prune-channels, reestimate-batch-norm, fold-batch-norm", []),
        ("prune-channels, prune-channels{ratio=0.25}, reestimate-batch-norm", []),
        ("prune-channels{ratio=0.0}", []),
        ("fold-batch-norm, prune-channels", []),
    ],
)
def test_what_is_said(text: str, said: list[str]) -> None:
    assert _said(text) == said


def test_removed_blocks_change_what_norms_see_too() -> None:
    program = captured(ResidualNet(), 1, 3, 8, 8)
    report = Pipeline([PruneBlocks(ratio=0.9, score="random"), PruneChannels()]).run(program).report
    assert str(report).count("put reestimate-batch-norm behind") == sum(step.fired for step in report.steps)


def test_nothing_is_said_without_norms_or_outside_of_a_pipeline() -> None:
    context = Context(later=())
    PruneChannels().apply(encoder_program(), context)
    assert "statistics" not in str(context.refusals)
    context = Context()
    PruneChannels().apply(captured(ResidualNet(), 1, 3, 8, 8), context)
    assert "statistics" not in str(context.refusals)
