"""Recipes: what they say, what they are written as again, and errors that point at the offending key."""

from __future__ import annotations

from pathlib import Path

import pytest
from fxpress.data import Data
from fxpress.recipe import Recipe, Require
from fxpress_ir.errors import PipelineError
from fxpress_passes import PASSES
from fxpress_passes.contract import options_of
from fxpress_passes.pipeline import Pipeline

FULL = """\
# what a user would write
version: 1
pipeline:
  - remove-noops
  - fold-batch-norm:
  - quantize-dyadic:
      weight_bits: 4
      integer_only: true
calibration:
  source: images
  batch_size: 16
  limit: 512
  mean: [0.485, 0.456, 0.406]
  std: 1e-1
targets: [onnx:int, reference]
seed: 7
require:
  sqnr_db: 20
  top1_drop: 0.5
  saturated: 0.01
"""


def test_every_key_is_read() -> None:
    assert Recipe.parse(FULL) == Recipe(
        pipeline=Pipeline.parse("remove-noops, fold-batch-norm, quantize-dyadic{weight_bits=4, integer_only=true}"),
        data=Data("images", 16, 512, (0.485, 0.456, 0.406), (0.1,)),
        targets=("onnx:int", "reference"),
        seed=7,
        require=Require(20.0, 0.5, 0.01),
    )


def test_a_short_recipe_is_enough() -> None:
    short = Recipe.parse("{version: 1, pipeline: 'fold-batch-norm, quantize-dyadic', calibration: a.npz, targets: reference}")
    assert short == Recipe(Pipeline.parse("fold-batch-norm, quantize-dyadic"), Data("a.npz"), ("reference",))
    assert Recipe.parse("version: 1\npipeline: fold-batch-norm") == Recipe(Pipeline.parse("fold-batch-norm"))


@pytest.mark.parametrize(
    "text", [FULL, "version: 1\npipeline: fold-batch-norm", "version: 1\npipeline: remove-noops\ncalibration: 'é: #1.npz'"]
)
def test_the_canonical_text_is_the_same_recipe(text: str) -> None:
    recipe = Recipe.parse(text)
    again = Recipe.parse(recipe.text())
    assert again == recipe
    assert again.text() == recipe.text()


def test_equal_recipes_have_equal_texts() -> None:
    listed = "{version: 1, pipeline: [{quantize-dyadic: {weight_bits: 4}}], seed: 0, targets: [reference]}"
    written = "targets: reference\npipeline: 'quantize-dyadic{weight_bits=4}'\nversion: 1"
    assert Recipe.parse(listed).text() == Recipe.parse(written).text()


@pytest.mark.parametrize("kind", PASSES, ids=lambda kind: kind.name)
def test_every_pass_is_written_and_read_with_its_options(kind: type) -> None:
    recipe = Recipe(Pipeline([kind()]))
    assert Recipe.parse(recipe.text()) == recipe
    for name, default in options_of(kind).items():
        spelled = Recipe(Pipeline([kind(**{name: default})]))
        assert spelled.text() == recipe.text()


def test_a_relative_source_counts_from_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("version: 1\npipeline: fold-batch-norm\ncalibration: {source: a.npz, limit: 3}\n")
    recipe = Recipe.read(tmp_path / "r.yaml")
    assert recipe.located_data() == Data(str(tmp_path / "a.npz"), limit=3)
    assert str(tmp_path) not in recipe.text()
    (tmp_path / "f.yaml").write_text("version: 1\npipeline: fold-batch-norm\ncalibration: package.module:factory\n")
    assert Recipe.read(tmp_path / "f.yaml").located_data() == Data("package.module:factory")


START = "version: 1\npipeline: fold-batch-norm\n"
BAD: dict[str, tuple[str, str]] = {
    "unknown option": (
        "version: 1\npipeline:\n  - remove-noops\n  - quantize-dyadic:\n      integer_only: true\n\n      weight_bit: 4\n",
        "r.yaml:7: pipeline[1].quantize-dyadic.weight_bit: unknown option; did you mean 'weight_bits'?",
    ),
    "unknown pass": (
        "version: 1\npipeline:\n  - fold-batchnorm\n",
        "r.yaml:3: pipeline[0]: unknown pass 'fold-batchnorm'; did you mean 'fold-batch-norm'?",
    ),
    "unknown pass with options": ("version: 1\npipeline:\n  - fold: {a: 1}\n", "r.yaml:3: pipeline[0].fold: unknown pass 'fold'"),
    "unknown pass in text": ("version: 1\n\npipeline: remove-noops, fold-batchnorm\n", "r.yaml:3: pipeline: unknown pass 'fold-batchnorm'"),
    "bad value": (
        "version: 1\npipeline:\n  - quantize-dyadic:\n      weight_bits: 9\n",
        "r.yaml:4: pipeline[0].quantize-dyadic.weight_bits: ",
    ),
    "value of another type": (
        "version: 1\npipeline:\n  - quantize-dyadic: {integer_only: 3}\n",
        "r.yaml:3: pipeline[0].quantize-dyadic.integer_only: integer_only=3 is no bool",
    ),
    "option of a pass without any": (
        "version: 1\npipeline: [{remove-noops: {a: 1}}]\n",
        "r.yaml:2: pipeline[0].remove-noops.a: unknown option; it has none",
    ),
    "two passes in one item": ("version: 1\npipeline:\n  - {remove-noops: , fold-batch-norm: }\n", "r.yaml:3: pipeline[0]: holds 2 keys"),
    "options as a list": ("version: 1\npipeline: [{quantize-dyadic: [4]}]\n", "pipeline[0].quantize-dyadic: is a list"),
    "a number for a pass": ("version: 1\npipeline: [3]\n", "r.yaml:2: pipeline[0]: is 3"),
    "no pass": ("version: 1\npipeline: []\n", "r.yaml:2: pipeline: is empty"),
    "an empty pipeline": ("version: 1\npipeline:\n", "r.yaml:2: pipeline: is empty; name one pass"),
    "wrong order": ("version: 1\npipeline: [place-quantizers, fold-batch-norm]\n", "r.yaml:2: pipeline: fold-batch-norm comes after"),
    "no pipeline": ("version: 1\n", "r.yaml:1: pipeline is missing"),
    "no version": ("pipeline: fold-batch-norm\n", "r.yaml:1: version is missing"),
    "another version": ("pipeline: fold-batch-norm\nversion: 2\n", "r.yaml:2: version: is 2; this fxpress reads 1"),
    "unknown key": (f"{START}target: reference\n", "r.yaml:3: target: unknown key; did you mean 'targets'?"),
    "a key twice": (f"{START}seed: 1\nseed: 2\n", "r.yaml:4: seed: is given twice, first in line 3"),
    "an option twice": (
        "version: 1\npipeline:\n- quantize-dyadic: {weight_bits: 4,\n    weight_bits: 8}\n",
        "r.yaml:4: pipeline[0].quantize-dyadic.weight_bits: is given twice",
    ),
    "unknown target": (
        f"{START}targets:\n  - reference\n  - onnx:qlinera\n",
        "r.yaml:5: targets[1]: unknown target 'onnx:qlinera'; nearest: onnx:qlinear",
    ),
    "negative seed": (f"{START}seed: -1\n", "r.yaml:3: seed: is -1"),
    "seed as text": (f"{START}seed: one\n", "r.yaml:3: seed: is 'one'"),
    "seed as truth": (f"{START}seed: true\n", "r.yaml:3: seed: is True"),
    "calibration without source": (f"{START}calibration: {{limit: 3}}\n", "r.yaml:3: calibration: source is missing"),
    "calibration key": (
        f"{START}calibration:\n  source: a.npz\n  batchsize: 3\n",
        "r.yaml:5: calibration.batchsize: unknown key; did you mean 'batch_size'?",
    ),
    "batch size 0": (f"{START}calibration:\n  source: a.npz\n  batch_size: 0\n", "r.yaml:5: calibration.batch_size: is 0"),
    "mean as text": (f"{START}calibration: {{source: a, mean: [0.5, half]}}\n", "r.yaml:3: calibration.mean[1]: is 'half'"),
    "calibration as a number": (f"{START}calibration: 3\n", "r.yaml:3: calibration: is 3"),
    "unknown floor": (f"{START}require: {{sqnr: 20}}\n", "r.yaml:3: require.sqnr: unknown key; did you mean 'sqnr_db'?"),
    "negative floor": (f"{START}require: {{top1_drop: -1}}\n", "r.yaml:3: require.top1_drop: is -1"),
    "infinite floor": (f"{START}require: {{sqnr_db: .inf}}\n", "r.yaml:3: require.sqnr_db: is .inf"),
    "a date": (f"{START}calibration: 2026-01-01\n", "r.yaml:3: calibration: '2026-01-01' is read as a timestamp; put it in quotes"),
    "no YAML": ("version: 1\npipeline: [a\nseed: 1\n", "r.yaml:3: is no YAML"),
    "a tab": ("version: 1\n\tpipeline: a\n", "r.yaml:2: is no YAML"),
    "two documents": (f"{START}---\n{START}", "is no YAML"),
    "a control character": ("version: \x00\n", "r.yaml: is no YAML"),
    "nothing": ("# nothing\n", "r.yaml: is empty"),
    "a list": ("- 1\n", "r.yaml:1: is a list"),
    "a key that is a list": ("? [a]\n: 1\n", "a key is no text"),
    "an alias": ("version: 1\npipeline: &p [remove-noops]\ntargets: *p\n", "r.yaml:2: holds an anchor"),
    "an alias bomb": ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "r.yaml:1: holds an anchor"),
    "a tag": ("version: !!python/object/apply:os.system [ls]\n", "r.yaml:1: holds a tag"),
    "depth": ("version: " + "[" * 2000 + "]" * 2000, "is no YAML"),
    "length": ("# " + "x" * (1 << 20), "longer than"),
    "a long number": (f"{START}seed: {'9' * 5000}\n", "r.yaml:3: seed: cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_error_points_at_the_offending_key(case: str) -> None:
    text, expected = BAD[case]
    with pytest.raises(PipelineError) as caught:
        Recipe.parse(text, "r.yaml")
    line = str(caught.value)
    assert "\n" not in line
    assert caught.value.way_on
    assert expected in line
    assert line.startswith("r.yaml")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"version: 1 # \xe9\n")
    for name, word in (("gone.yaml", "No such file"), ("", "Is a directory"), ("latin.yaml", "UTF-8")):
        with pytest.raises(PipelineError, match=word) as caught:
            Recipe.read(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
