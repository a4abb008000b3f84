"""benchmarks/all_families.py: a row for each step of a recipe, floats on ONNX Runtime, integers on every target of the recipe."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import all_families  # noqa: E402
from fxpress.recipe import Recipe  # noqa: E402


def test_each_step_that_changes_the_program_has_a_row() -> None:
    text = "version: 1\npipeline: 'prune-channels{ratio=0.5}, fold-batch-norm, quantize-dyadic'\ntargets: ['onnx:qlinear', 'reference']"
    found, notes = all_families.rows(Recipe.parse(text), "digits-cnn", 2, quick=True)
    assert [cells[:2] for cells in found] == [
        ("the model as it is", "`onnx:float`"),
        ("`prune-channels`", "`onnx:float`"),
        ("`fold-batch-norm`", "`onnx:float`"),
        ("`to-integer`", "`onnx:qlinear`"),
        ("`to-integer`", "`reference`"),
    ]
    sizes = [float(cells[2].split()[0]) for cells in found]
    assert sizes[0] > 2 * sizes[1] > 2 * sizes[3]
    assert "quick" in notes


def test_the_recipe_of_the_repository_names_all_five_families(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BENCHMARKS.parent)
    names = [item.name for item in Recipe.read("recipes/all.yaml").pipeline.passes]
    assert names == ["fold-adapters", "prune-channels", "factorize", "recover", "fuse-parallel", "quantize-dyadic"]
