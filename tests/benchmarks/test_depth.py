"""Untrained and on little data: what the benchmark tries runs, uniform dropping is even, the table has a line for each."""

from __future__ import annotations

import depth
import pytest
import torch
from fxpress.zoo.char_lm import text
from fxpress_ir.analysis.blocks import rows


@pytest.fixture(scope="module")
def trial() -> depth.Trial:
    data = text()
    whole = depth.Trial.of(depth.CharLM(width=16, heads=2, groups=1, hidden=24, depth=depth.DEPTH).eval(), 0, data)
    return depth.Trial(whole.program, whole.calibration[:2], (whole.held_out[0][:4], whole.held_out[1][:4]))


def test_uniform_dropping_keeps_the_ends_and_spreads_the_rest(trial: depth.Trial) -> None:
    left = {int(name.split(".")[1]) for name in trial.uniform().tensors if name.startswith("blocks")}
    assert left == {0, 1, 3, 4, 6, 7}


def test_a_loss_is_the_mean_over_bytes(trial: depth.Trial) -> None:
    ids, following = trial.held_out
    scores = trial.program.run(ids)[0].log_softmax(-1)
    expected = -scores.gather(-1, following[..., None]).mean()
    assert trial.loss(trial.program) == pytest.approx(float(expected), rel=1e-5)


def test_what_is_tried_has_two_blocks_less(trial: depth.Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = [(pipeline.replace(f"steps={depth.FUSED}", "steps=1"), steps) for pipeline, steps in depth.PIPELINES if "loss" not in pipeline]
    monkeypatch.setattr(depth, "PIPELINES", [(pipeline, steps) for pipeline, steps in tried if "recover" not in pipeline])
    found = depth.losses(trial, 0)
    assert [blocks for name, (blocks, _, _) in found.items() if name != "whole" and "fill" not in name] == [6] * (len(found) - 2)
    lines = depth.table([found, found])
    assert len(lines) == len(found) == len(depth.PIPELINES) + 2
    assert len(lines[0]) == len(depth.HEAD)
    assert len(rows(trial.program)[0]) == depth.DEPTH
    assert torch.tensor([loss for _, _, loss in found.values()]).isfinite().all()
