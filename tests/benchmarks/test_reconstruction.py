"""benchmarks/reconstruction.py: a row a method, and every layer of digits-cnn has less error than rounding to nearest leaves."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import reconstruction


def test_two_bits_are_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "SEEDS", (0,))
    monkeypatch.setattr(reconstruction, "NAMES", ("none", "gptq"))
    nearest, learnt = reconstruction.rows("digits-cnn", 2, 5)
    assert nearest[:3] == ("digits-cnn", "2", "none")
    assert float(nearest[3].strip("%")) < 50 < 95 < float(learnt[3].strip("%"))
    assert learnt[5:7] == ("better", "10 of 10")


def test_one_scale_a_layer_is_the_largest() -> None:
    program = reconstruction.placed("digits-cnn", 4, 0, True)
    scales = [tensor for name, tensor in program.tensors.items() if name.endswith(".scale")]
    assert len(scales) == 10
    assert all(len(set(scale.tolist())) == 1 for scale in scales)
