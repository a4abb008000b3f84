"""benchmarks/pruning.py: a row for each ratio, each score's quality beside magnitude and chance; plans are those of the passes."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import fxpress as fx
import pruning
from seeds import Model


@pytest.mark.parametrize("score", ["taylor", "random"])
def test_a_plan_is_what_the_pass_decides(score: str) -> None:
    model = Model.of("digits-cnn")
    for ratio, plan in zip(pruning.RATIOS, pruning.plans(model, fx.passes.PruneChannels, score, 1), strict=True):
        assert plan == fx.passes.PruneChannels(ratio=ratio, score=score).decide(model.program, model.context(1))


def test_a_row_a_ratio_and_a_verdict_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "SCORES", ("activation", "trajectory"))
    monkeypatch.setattr(pruning, "LONG", (("digits-vit", "prune-channels", "trajectory"),))
    monkeypatch.setattr(pruning, "SEEDS", (0, 1))
    monkeypatch.setattr(pruning, "RATIOS", (0.25, 0.75))
    verdicts: dict[str, Counter[tuple[int, str]]] = {score: Counter() for score in pruning.SCORES}
    found = pruning.rows(Model.of("digits-vit"), fx.passes.PruneChannels, verdicts, every=False)
    assert [row[:3] for row in found] == [
        ("digits-vit", "`prune-channels{ratio=0.25}`", "88%"),
        ("digits-vit", "`prune-channels{ratio=0.75}`", "65%"),
    ]
    quality = [[float(cell.partition("%")[0]) for cell in row[3:6]] for row in found]
    assert all(mild > hard for mild, hard in zip(*quality, strict=True))
    assert found[1][5].endswith(" better / better")
    assert {row[6] for row in found} == {"-"}
    assert sum(verdicts["activation"].values()) == 4
    assert verdicts["activation"][1, "better"] >= 1
    assert not verdicts["trajectory"]
