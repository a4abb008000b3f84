"""benchmarks/peer_torch_pruning.py: both tools leave the same sizes, from the same data."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
pytest.importorskip("torch_pruning")
import fxpress as fx
import peer_torch_pruning as benchmark
from seeds import Model


@pytest.mark.parametrize(("name", "score"), [("digits-cnn", "taylor"), ("digits-vit", "magnitude")])
def test_both_leave_the_same_sizes(name: str, score: str) -> None:
    model = Model.of(name)
    mine, other = (make(model, score, 0) for make in (benchmark.ours, benchmark.theirs))
    assert mine.cost() == other.cost()
    assert mine.cost().macs < 0.8 * model.program.cost().macs
    judged = [fx.passes.ReestimateBatchNorm().apply(found, model.context(0)) for found in (mine, other)]
    assert all(0.15 < model.entry.evaluate(found.run) < 1 for found in judged)


def test_an_attempt_that_does_not_come_back_is_given_up() -> None:
    with pytest.raises(TimeoutError, match="not back after 1 s"), benchmark.limit(1):
        time.sleep(30)
