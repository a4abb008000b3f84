"""Compression as a whole: the artifacts that a recipe asks for, the same bits and bytes, floors that are kept or missed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fxpress as fx
import pytest
import torch
from fxpress.compress import Compressed, compress
from fxpress.data import Data, drawn
from fxpress.model_source import Source, open_model
from fxpress.recipe import Recipe, Require
from fxpress_backends.registry import find
from fxpress_ir.errors import ArtifactError, BackendError, CalibrationError, PipelineError
from fxpress_passes.pipeline import Pipeline
from support import residual_net
from torch import Tensor, nn

INTEGER = "remove-noops, fold-constants, fold-batch-norm, quantize-dyadic"
RECIPE = Recipe(Pipeline.parse(INTEGER), targets=("reference", "onnx:float"), seed=3, require=Require(20.0, 0.5, 0.01))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)))


def small() -> Source:
    x = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    return Source("net", Net().eval(), (x,), {"x": {0: fx.Dim("batch")}})


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Compressed, Path]:
    out = tmp_path_factory.mktemp("digits") / "made" / "out"
    return compress(open_model("digits-cnn"), RECIPE, out), out


def test_every_target_gets_an_artifact_with_the_program_s_bits(digits: tuple[Compressed, Path]) -> None:
    done, out = digits
    assert [(row.target, row.stage, row.same_bits) for row in done.rows] == [("reference", "integer", True), ("onnx:float", "float", None)]
    assert done.rows[1].relative < 1e-4
    assert done.held
    assert done.facts > 0
    image = fx.zoo.load("digits-cnn").held_out[0][:3]
    for row in done.rows:
        assert Path(row.folder) == out / row.target.replace(":", "-")
    assert torch.equal(torch.from_numpy(fx.load(out / "reference").run(image)[0]), done.program.run(image)[0])


def test_the_artifact_says_what_it_was_made_with(digits: tuple[Compressed, Path]) -> None:
    done, out = digits
    manifest = fx.load(out / "reference").manifest
    assert Recipe.parse(manifest["recipe"]) == RECIPE
    assert manifest["seed"] == 3
    assert {entry["name"]: entry["value"] for entry in manifest["measured"]} == done.measured
    assert done.measured.keys() == {"sqnr_db", "saturated", "top1_drop"}
    assert fx.load(out / "onnx-float").manifest["measured"] == []


def test_the_same_recipe_gives_the_same_bytes(tmp_path: Path) -> None:
    x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    recipe = replace(RECIPE, targets=("reference", "onnx:int"), require=Require())
    for name in ("one", "other"):
        compress(replace(small(), calibration=[(x,)]), recipe, tmp_path / name)
    files = {path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()}
    assert len(files) >= 4
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


def test_the_recipe_s_data_go_before_the_model_s(tmp_path: Path) -> None:
    import numpy as np

    images = np.random.default_rng(0).standard_normal((5, 3, 6, 6)).astype(np.float32)
    np.savez(tmp_path / "x.npz", images)
    recipe = replace(RECIPE, data=Data("x.npz", batch_size=2), targets=("reference",), require=Require(sqnr_db=15.0), base=tmp_path)
    done = compress(replace(small(), calibration=[(torch.full((1, 3, 6, 6), float("nan")),)]), recipe, tmp_path / "out")
    assert done.held
    assert done.checks[0].measured == done.measured["sqnr_db"]


def test_measurements_are_kept_and_stand_in_for_the_data(tmp_path: Path) -> None:
    """Data that are read once give every batch to the pipeline."""
    batches = [(torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(seed)),) for seed in range(3)]
    recipe = Recipe(Pipeline.parse(INTEGER), targets=("reference",))
    hashes = [
        compress(replace(small(), calibration=data), recipe, tmp_path / "out", state=state).program.hash
        for data, state in ((batches, None), (iter(batches), tmp_path / "state"), (batches, tmp_path / "state"), (None, tmp_path / "state"))
    ]
    assert len(set(hashes)) == 1
    assert [path.name.partition("-")[0] for path in (tmp_path / "state").iterdir()] == ["ranges"]
    with pytest.raises(CalibrationError, match="its 3 batches were others than the first 3 of these data"):
        compress(replace(small(), calibration=batches[::-1]), recipe, tmp_path / "out", state=tmp_path / "state")


def test_a_program_of_integers_is_measured_on_real_numbers(tmp_path: Path) -> None:
    x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(2))

    def done(io: str) -> Compressed:
        pipeline = Pipeline.parse(f"fold-batch-norm, quantize-dyadic{{io={io}}}")
        recipe = Recipe(pipeline, targets=("reference", "onnx:qlinear", "onnx:float"), require=Require(20.0, 0.5, 0.05))
        source = replace(small(), calibration=[(x,)], evaluate=lambda run: float(run(x)[0].double().mean()))
        return compress(source, recipe, tmp_path / io)

    bordered, bare = done("float"), done("integer")
    assert [row.same_bits for row in bare.rows] == [True, True, None]
    assert bare.held
    assert {name: bare.measured[name] for name in ("sqnr_db", "top1_drop")} == {
        name: bordered.measured[name] for name in ("sqnr_db", "top1_drop")
    }
    assert bare.program.inputs[0].dtype == torch.int8
    assert fx.load(tmp_path / "integer" / "reference").inputs[0].scale == bare.program.inputs[0].scale


def test_a_missed_floor_is_said_and_the_artifact_is_there(tmp_path: Path) -> None:
    recipe = replace(RECIPE, targets=("reference",), require=Require(sqnr_db=200.0))
    done = compress(replace(small(), calibration=[drawn(small().capture(), 0)]), recipe, tmp_path / "out")
    assert not done.held
    assert [(check.name, check.asked, check.held) for check in done.checks] == [("sqnr_db", 200.0, False)]
    assert fx.load(tmp_path / "out" / "reference").target == "reference"


def test_a_float_pipeline_needs_no_data(tmp_path: Path) -> None:
    done = compress(small(), Recipe(Pipeline.parse("fold-batch-norm"), targets=("onnx:float",)), tmp_path / "out")
    assert done.rows[0].relative < 1e-4
    assert done.measured["sqnr_db"] > 80


def test_drawn_inputs_fit_the_program_and_follow_the_seed() -> None:
    program = residual_net()
    first, second, other = (drawn(program, seed) for seed in (0, 0, 1))
    program.check_inputs(first)
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[0], other[0])


def test_each_pass_is_dumped(tmp_path: Path) -> None:
    compress(small(), Recipe(Pipeline.parse("fold-batch-norm"), targets=("onnx:float",)), tmp_path / "out", dump=tmp_path / "dump")
    assert [path.name for path in sorted((tmp_path / "dump").iterdir())] == ["00-input.txt", "01-fold-batch-norm.txt"]


CALIBRATED = replace(small(), calibration=[(torch.ones(2, 3, 6, 6),)])
FLOAT = Pipeline.parse("fold-batch-norm")
REFUSED = {
    "no target": (small, Recipe(FLOAT), PipelineError, "no target"),
    "unknown target": (small, Recipe(FLOAT, targets=("onnx:in",)), BackendError, "onnx:in"),
    "a target for integers only": (small, Recipe(FLOAT, targets=("onnx:float", "reference")), BackendError, "add quantize-dyadic"),
    "no data": (small, Recipe(Pipeline.parse(INTEGER), targets=("reference",)), CalibrationError, "--calibration"),
    "a file that is not there": (small, Recipe(FLOAT, Data("gone.npz"), ("onnx:float",)), CalibrationError, "gone.npz"),
    "quality of no evaluate": (small, replace(RECIPE, require=Require(top1_drop=1.0)), PipelineError, "top1_drop"),
    "saturation of floats": (
        lambda: CALIBRATED,
        Recipe(FLOAT, targets=("onnx:float",), require=Require(saturated=0.1)),
        PipelineError,
        "saturated cannot be measured",
    ),
}


def test_a_target_of_another_machine_is_made_and_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Seen through the reference, said to run elsewhere: no compiler is asked for."""
    entry, card = find("reference")
    elsewhere = entry, replace(card, runs_here=False)
    monkeypatch.setattr("fxpress.compress.find", lambda name: elsewhere)
    monkeypatch.setattr(fx.Artifact, "run", lambda *_: pytest.fail("it was run"))
    done = compress(CALIBRATED, Recipe(Pipeline.parse(INTEGER), targets=("reference",)), tmp_path)
    assert [(row.target, row.same_bits, row.relative) for row in done.rows] == [("reference", None, None)]
    assert done.held
    assert (tmp_path / "reference" / "manifest.json").is_file()


def test_a_state_without_the_measurements_is_no_calibration(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"state': holds no ranges of program .*; give the data, or the state of the same model"):
        compress(small(), Recipe(Pipeline.parse(INTEGER), targets=("reference",)), tmp_path / "out", state=tmp_path / "state")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_and_nothing_is_written(case: str, tmp_path: Path) -> None:
    source, recipe, kind, word = REFUSED[case]
    with pytest.raises(kind) as caught:
        compress(source(), recipe, tmp_path / "out")
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_stands_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "onnx-float").mkdir()
    (tmp_path / "onnx-float" / "letter.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="onnx-float"):
        compress(small(), Recipe(FLOAT, targets=("onnx:float",)), tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["onnx-float", "letter.txt"]
