"""benchmarks/recovery.py: pruning costs, distillation gives most of it back, and the row says how much."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import recovery
from seeds import Model


def test_half_of_the_gap_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "SEEDS", (0,))
    cells, share = recovery.row(Model.of("digits-cnn"), "prune-channels{ratio=0.5}", 40)
    whole, pruned, recovered = map(float, cells[2:5])
    assert whole < recovered < pruned
    assert share == pytest.approx((pruned - recovered) / (pruned - whole), abs=0.05)
    assert share > recovery.ASKED
