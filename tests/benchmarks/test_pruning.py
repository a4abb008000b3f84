"""benchmarks/pruning.py: a row for each ratio, each score's quality beside chance; plans are those of the passes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import fxpress as fx
import pruning


@pytest.mark.parametrize("score", ["taylor", "random"])
def test_a_plan_is_what_the_pass_decides(score: str) -> None:
    model = pruning.Model.of("digits-cnn")
    for ratio, plan in zip(pruning.RATIOS, pruning.plans(model, fx.passes.PruneChannels, score), strict=True):
        assert plan == fx.passes.PruneChannels(ratio=ratio, score=score).decide(model.program, model.context())


def test_a_row_a_ratio_and_a_figure_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "SCORES", ("magnitude", "activation"))
    monkeypatch.setattr(pruning, "SEEDS", (0,))
    monkeypatch.setattr(pruning, "RATIOS", (0.25, 0.75))
    found = pruning.rows("digits-vit", fx.passes.PruneChannels)
    assert [row[:3] for row in found] == [
        ("digits-vit", "`prune-channels{ratio=0.25}`", "88%"),
        ("digits-vit", "`prune-channels{ratio=0.75}`", "65%"),
    ]
    quality = [[float(cell.partition("%")[0]) for cell in row[3:]] for row in found]
    assert all(len(row) == 3 for row in quality)
    assert all(mild > hard for mild, hard in zip(*quality, strict=True))
