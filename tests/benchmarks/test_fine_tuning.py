"""benchmarks/fine_tuning.py: a dense net of equal size, a language model's blocks, and fine-tuning on labels that keeps zeros."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import fine_tuning
import fxpress as fx
from seeds import Model, next_byte


def test_the_dense_net_has_as_many_weights_at_most() -> None:
    assert 24_000 < fine_tuning.nonzero(fine_tuning.narrow(30_000)) <= 30_000


def test_grown_zeros_stand_beside_a_dense_net(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fine_tuning, "STEPS", 6)
    monkeypatch.setattr(fine_tuning, "DENSE_SEEDS", (0,))
    rows = [line.split(" | ") for line in fine_tuning.gradual()[0].splitlines()[2:]]
    zeros, dense = (int(row[1].replace(",", "")) for row in rows)
    assert 0.9 * zeros < dense <= zeros < 40_000


def test_labels_alone_teach_and_zeros_stay() -> None:
    model = Model.of("char-lm")
    names = fine_tuning.blocks(model.program)
    assert len(names) == fine_tuning.FEATURES
    program = fx.passes.Sparsify(score="magnitude", sparsity=0.75).apply(model.program, model.context(0))
    data = [(batch[:4],) for (batch,) in model.drawn(1, 3)]
    after = fine_tuning.by_labels(model, program, data)
    losses = [float(next_byte(found.run(*data[0]), data[0])) for found in (program, after)]
    assert losses[1] < losses[0]
    for name in ("blocks.1.up.weight", "blocks.2.attention.query.weight"):
        assert torch.equal(program.tensors[name] == 0, after.tensors[name] == 0)
