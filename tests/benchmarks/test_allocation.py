"""benchmarks/allocation.py: random bits fill the size and no more, what is lost is what `place-quantizers` loses, tables hold verdicts."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import allocation
from rounded_networks import BITS, Rounded
from torch.nn.functional import cross_entropy


@pytest.fixture(scope="module")
def model() -> Rounded:
    return Rounded("digits-cnn")


def test_random_bits_fill_the_size(model: Rounded) -> None:
    for seed in range(5):
        bits = model.drawn(4.5, random.Random(seed))
        assert set(bits.values()) <= set(BITS)
        assert model.average(bits) <= 4.5
        assert all(one == 8 or model.average({**bits, name: one + 1}) > 4.5 for name, one in bits.items())


def test_fewer_bits_lose_more_and_integers_lose_as_much(model: Rounded) -> None:
    eight, three = (model.lost(model.uniform(bits)) for bits in (8, 3))
    assert 0 < eight < 1e-4 < three
    assert allocation.integer(model, model.uniform(3), 0) == pytest.approx(three, rel=0.2)
    exact = model.entry.held_out
    assert float(model.task(model.program.run).mean()) == pytest.approx(float(cross_entropy(model.program.run(exact[0])[0], exact[1])))


def test_tables_hold_what_was_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(allocation, "MEASURES", {name: allocation.MEASURES[name] for name in ("distance", "weight-error")})
    monkeypatch.setattr(allocation, "KEPT", tmp_path)
    monkeypatch.setattr(allocation, "DRAWS", 6)
    found = allocation.kept("digits-cnn", [4], [0])
    assert allocation.kept("digits-cnn", [4], [0, 1], lacking=False) == found
    one = found[0]["4"]
    assert one["lost"][allocation.OURS] <= one["lost"]["distance"] < one["lost"][allocation.UNIFORM] < max(one["random"])
    parts = [list(of("digits-cnn", [4], found)) for of in (allocation.rows, allocation.tasks, allocation.ranks)]
    assert parts[0][0][4].endswith(" better")
    assert sum(one["samples"][allocation.OURS]) / 797 == pytest.approx(one["lost"][allocation.OURS], rel=1e-4)
    assert parts[1][0][3].endswith(" better")
    assert float(parts[2][0][2]) > 0.5
    assert allocation.written(parts).count("digits-cnn, 4 bits") == 3


def test_a_difference_has_the_error_of_its_samples() -> None:
    uniform, own = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[0.5, 2.0, 2.5, 4.0]])
    gain, error = allocation._difference(uniform, own)
    assert gain == pytest.approx(0.25)
    assert error == pytest.approx(0.5 / 3**0.5 / 2, rel=1e-5)
    assert allocation._compared(uniform, own, ".2f") == ("-0.25 +- 0.29", "tie")
    assert allocation._compared(uniform, uniform, ".2f")[1] == "tie"
    assert allocation._compared(uniform, own - 1, ".2f") == ("-1.25 +- 0.29", "better")
    assert allocation._compared(uniform, own + 1, ".2f") == ("+0.75 +- 0.29", "worse")
