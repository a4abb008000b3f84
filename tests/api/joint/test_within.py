"""A model and budgets ==> an artifact that holds them, measured; a plan ==> the same artifact without the search."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import fxpress as fx
import numpy as np
import pytest
import torch
from command import fxpress, refused
from fxpress.commands.within import show, show_json
from fxpress.data import Data
from fxpress.joint import JointPlan
from fxpress.joint.built import How
from fxpress.joint.goal import budgets
from fxpress.joint.refusals import Refusal
from fxpress.joint.within import Within, compress_within, plan_file, replay
from fxpress.model_source import Source
from fxpress_ir.errors import BackendError, FxpressError, InfeasibleError, PassError
from joint_net import batches, source

HOW = How(rounds=0, steps=20)
SMALL = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 32, 8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 64)).eval(), torch.randn(1, 3, 8, 8)

def data():
    return [(torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed)),) for seed in range(3)]
"""
"""A network as a user brings one: two layers, no labels."""
BITS = How(families=("bits",), rounds=0)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Within, Path]:
    out = tmp_path_factory.mktemp("within")
    return compress_within(source(), budgets(["size=0.36x"]), -60.0, "onnx:int", out, how=HOW), out


def test_a_size_is_held_to_the_byte_and_the_artifact_runs(done: tuple[Within, Path]) -> None:
    found, out = done
    artifact = fx.load(out / "onnx-int")
    assert found.held
    assert artifact.payload_size / found.float_size == pytest.approx(found.size_ratio)
    assert found.size_ratio <= 0.36
    assert found.found.measured["size"].value == artifact.payload_size
    x = batches()[0][0].numpy()
    assert np.array_equal(artifact.run(x)[0], found.program.run(batches()[0][0])[0].numpy())
    assert found.points is not None
    assert found.points >= -60
    assert found.fronts["size"].answers


def test_its_plan_replays_without_the_search(done: tuple[Within, Path], tmp_path: Path) -> None:
    _, out = done
    plan = JointPlan.from_json((out / "onnx-int.plan.json").read_text())
    again = replay(source(), plan, "onnx:int", tmp_path)
    assert (again.folder / "model.onnx").read_bytes() == (out / "onnx-int" / "model.onnx").read_bytes()
    assert (plan.seed, len(plan.calibration)) == (HOW.seed, 64)


def test_its_plan_holds_for_its_seed_and_data_alone(done: tuple[Within, Path], tmp_path: Path) -> None:
    plan = done[0].plan
    with pytest.raises(PassError, match="plan: was made with seed 0, not 3; leave the seed out, or search again"):
        replay(source(), plan, "onnx:int", tmp_path / "out", seed=3)
    for other in (batches()[:2], batches()[::-1]):
        with pytest.raises(PassError, match=r"plan: was made on calibration data .*; give the same batches in the same order"):
            replay(replace(source(), calibration=other), plan, "onnx:int", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_could_not_be_chosen_is_told(done: tuple[Within, Path], capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = done
    assert found.refusals == (Refusal("channels", "output 0 carries it", "head"),)
    show_json(found)
    told = json.loads(capsys.readouterr().out)
    assert told["refusals"] == [{"family": "channels", "reason": "output 0 carries it", "name": "head"}]
    assert JointPlan.from_json(Path(told["plan_file"]).read_text()) == found.plan
    show(found, [])
    assert "\nno choice of channels: head: output 0 carries it\n" in capsys.readouterr().out


def test_a_budget_that_is_missed_says_what_was_reached(done: tuple[Within, Path], capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = done
    missed = replace(found, found=replace(found.found, answer=replace(found.found.answer, budgets={"size": 10.0})), size_ratio=0.3581)
    assert not missed.held
    show(missed, [])
    out = capsys.readouterr().out
    assert "MISSED: size is above its budget as measured; size=0.359x is the nearest that was built" in out
    assert out.rstrip().endswith(f"{plan_file(found.artifact.folder)}")


def test_an_impossible_budget_says_the_nearest_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InfeasibleError, match=r"size at most .* cannot be held; the nearest is size"):
        compress_within(source(), budgets(["size=0.001x"]), None, "onnx:int", tmp_path / "out", how=BITS)
    assert not (tmp_path / "out").exists()


def test_distilled_data_take_the_place_of_calibration(tmp_path: Path) -> None:
    found = compress_within(replace(source(), calibration=None), budgets(["size=0.5x"]), None, "onnx:int", tmp_path, how=BITS)
    assert found.held
    assert found.same_bits
    with pytest.raises(FxpressError, match="limit, mean and std are for data that there are"):
        compress_within(source(), budgets(["size=0.5x"]), None, "onnx:int", tmp_path / "out", Data("distilled", limit=3), how=BITS)


def test_without_data_and_without_batch_norms_nothing_is_chosen(tmp_path: Path) -> None:
    net = torch.nn.Linear(3, 3)
    with pytest.raises(FxpressError, match="the model brings no calibration data, and the program has no batch norms"):
        compress_within(Source("net", net, (torch.randn(1, 3),)), budgets(["size=0.5x"]), None, "onnx:int", tmp_path / "out", how=BITS)


@pytest.mark.parametrize(
    ("target", "asked", "floor", "line"),
    [
        ("onnx:float", "size=0.5x", None, "takes float programs, this makes integers"),
        ("reference", "latency=0.5x", None, "it has no kernels to time; give a budget of size alone"),
        ("tvm:riscv64", "latency=0.5x", None, "this machine does not run it; give a budget of size alone"),
        ("onnx:int", "size=0.5x", -1.0, "accuracy cannot be measured: the model brings no evaluate"),
    ],
)
def test_what_cannot_be_held_is_refused_at_once(target: str, asked: str, floor: float | None, line: str, tmp_path: Path) -> None:
    bare = replace(source(), calibration=None, evaluate=None)
    with pytest.raises(FxpressError, match=line):
        compress_within(bare, budgets([asked]), floor, target, tmp_path / "out", how=HOW)
    assert not (tmp_path / "out").exists()


def test_sizes_have_to_be_the_model_s(tmp_path: Path) -> None:
    how = replace(BITS, sizes={"bach": 2})
    with pytest.raises(BackendError, match="no dynamic dimension 'bach'; there is batch"):
        compress_within(source(), budgets(["size=0.5x"]), None, "onnx:int", tmp_path / "out", how=how)


def test_the_command_line_holds_a_size_and_replays_its_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small.py").write_text(SMALL)
    monkeypatch.chdir(tmp_path)
    common = ["compress", "small:make", "--calibration", "small:data", "--target", "onnx:int"]
    result = fxpress(*common, "--out", "out", "--budget", "size=0.6x", "--json")
    found = json.loads(result.stdout)
    assert result.returncode == 0
    assert found["held"]
    assert found["size_ratio"] <= 0.6
    assert (found["accuracy"], found["latency_ratio"]) == (None, None)
    assert json.loads(Path("out/onnx-int.pareto-size.json").read_text())["resource"] == "size"
    assert b"<svg" in Path("out/onnx-int.pareto-size.svg").read_bytes()
    again = fxpress(*common, "--out", "again", "--plan", "out/onnx-int.plan.json")
    assert (again.returncode, "again/onnx-int" in again.stdout) == (0, True)
    assert Path("again/onnx-int/model.onnx").read_bytes() == Path("out/onnx-int/model.onnx").read_bytes()
    refused(fxpress(*common, "--out", "other", "--plan", "out/onnx-int.plan.json", "--seed", "1"), "was made with seed 0, not 1")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--budget", "size=0.5x", "--recipe", "r.yaml"], "--recipe beside --budget"),
        (["--budget", "size=0.5x", "--target", "onnx:int"], "2 targets; what is measured is measured on one"),
        (["--plan", "nothing.json"], "plan 'nothing.json': cannot be read"),
        (["--plan", "nothing.json", "--budget", "size=0.5x"], "--plan beside --budget"),
        (["--floor", "accuracy=-1"], "accuracy cannot be measured"),
        (["--budget", "latency=0.5x", "--sizes", "batch"], "--sizes 'batch' is no list of sizes"),
        (["--pipeline", "remove-noops", "--sizes", "batch=2"], "--sizes without --budget"),
    ],
)
def test_usage_that_contradicts_itself_is_one_line(options: list[str], line: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        refused(fxpress("compress", "joint_net:make", "--target", "reference", "--out", "nowhere", *options), line)
