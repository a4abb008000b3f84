"""benchmarks/sparsity.py: zeros cost digits, data tell which, seeds decide random masks, GBLM without gradients is Wanda."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import sparsity
from seeds import Model


def test_a_score_shows_its_figures_and_against_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparsity, "HOWS", {"75 %": {"sparsity": 0.75}})
    monkeypatch.setattr(sparsity, "SCORED", ("magnitude", "random", "sparsegpt"))
    monkeypatch.setattr(sparsity, "DATA", ("sparsegpt",))
    monkeypatch.setattr(sparsity, "SEEDS", (0, 1))
    verdicts: dict[str, Counter[tuple[str, str]]] = {"sparsegpt": Counter()}
    text = sparsity.table(Model.of("digits-cnn"), verdicts)
    magnitude, random, updated = (line.split(" | ")[1] for line in text.splitlines()[-3:])
    assert " to " not in magnitude
    assert " to " in random
    assert updated.removesuffix(" |").endswith(" better / better")
    assert float(updated.partition("%")[0]) > float(magnitude.partition("%")[0]) + 5
    assert "zeroes exactly what `wanda` does" in text
    assert verdicts["sparsegpt"] == {("magnitude", "better"): 1, ("random", "better"): 1}


def test_other_masks_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model, given = Model.of("digits-cnn"), sparsity.sparse
    monkeypatch.setattr(sparsity, "SEEDS", (0,))
    monkeypatch.setattr(sparsity, "sparse", lambda model, score, how, seed, **_: given(model, score, how, seed))
    assert not sparsity.same_masks(model, {"sparsity": 0.5})
