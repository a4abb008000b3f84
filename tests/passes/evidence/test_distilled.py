"""Distilled inputs have the statistics that the norms were trained on, are those of the seed, and are refused without norms."""

from __future__ import annotations

import pytest
import torch
from float_programs import Chain, captured
from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError
from fxpress_passes.evidence.distilled import distill
from torch import nn


def _trained() -> Program:
    """Norms whose statistics are those of shifted, scaled data."""
    torch.manual_seed(0)
    model = Chain(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 2))
    model.train()
    with torch.no_grad():
        for _ in range(60):
            model(torch.randn(32, 2, 6, 6) * 2 + 0.7)
    return captured(model.eval(), 2, 2, 6, 6)


def test_the_gap_to_the_running_statistics_shrinks() -> None:
    found = distill(_trained(), batches=2, batch_size=16, steps=60)
    assert [len(batch) for batch in found.batches] == [1, 1]
    assert found.batches[0][0].shape == (16, 2, 6, 6)
    assert all(after < before / 4 for before, after in found.losses)
    assert not torch.equal(found.batches[0][0], found.batches[1][0])


def test_normalized_inputs_are_held_to_mean_0_and_deviation_1() -> None:
    """These were trained on a mean of 0.7 and a deviation of 2."""
    free, held = (distill(_trained(), batches=1, batch_size=16, steps=60, normalized=flag).batches[0][0] for flag in (False, True))
    assert abs(float(held.std()) - 1) < abs(float(free.std()) - 1)
    assert float(free.std()) > 1.5


def test_the_same_seed_gives_the_same_data() -> None:
    program = _trained()
    first, second, other = (distill(program, batches=1, batch_size=4, steps=3, seed=seed).batches[0][0] for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_what_it_cannot_distil_for_is_refused() -> None:
    with pytest.raises(CalibrationError, match="distilled data: the program has no batch norms"):
        distill(captured(Chain(nn.Linear(3, 2)), 2, 3))


def test_steps_are_told() -> None:
    told: list[tuple[str, int, int]] = []
    distill(_trained(), batches=2, batch_size=2, steps=2, progress=lambda *what: told.append(what))
    assert told == [("distilling data", done, 4) for done in (1, 2, 3, 4)]
