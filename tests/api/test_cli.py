"""The command line as a user runs it: what it prints, its exit codes, one line an error."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fxpress as fx
import fxpress_backends.bench
import numpy as np
import pytest
from command import Completed, fxpress, refused
from fxpress.recipe import Recipe
from fxpress_backends import folder as folders
from fxpress_backends import manifest as manifests
from fxpress_passes import PASSES
from PIL import Image
from safetensors.numpy import save_file
from support import residual_net


def test_passes_lists_every_pass_with_its_promise() -> None:
    result = fxpress("passes", "--json")
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)
    assert [row["name"] for row in rows] == [kind.name for kind in PASSES]
    assert {row["name"]: row["promise"] for row in rows}["remove-noops"] == "exact"
    assert {row["name"]: row["options"] for row in rows}["quantize-dyadic"]["weight_bits"] == 8


def test_targets_lists_every_target() -> None:
    result = fxpress("targets", "--json")
    names = {row["name"] for row in json.loads(result.stdout)}
    assert {"reference", "onnx:float", "onnx:int", "onnx:qlinear", "tvm:x86-64", "tvm:native"} <= names


def test_inspect_shows_the_graph_and_the_cost_of_a_zoo_model() -> None:
    result = fxpress("inspect", "digits-cnn", "--json")
    assert result.returncode == 0, result.stderr
    data = json.loads(result.stdout)
    assert "aten.conv2d" in data["graph"]
    assert data["cost"]["parameters"] > 10_000


def test_inspect_shows_the_proofs_of_an_artifact(tmp_path: Path) -> None:
    fx.lower(residual_net(), "reference", out=tmp_path / "net")
    result = fxpress("inspect", str(tmp_path / "net"))
    assert result.returncode == 0, result.stderr
    assert "everything_fits" in result.stdout
    assert "accumulator (any order)" in result.stdout


@pytest.mark.parametrize("command", ["", "demo", "compress", "verify", "bench", "inspect", "passes", "targets"])
def test_help_is_there(command: str) -> None:
    result = fxpress(*filter(None, [command]), "--help")
    assert "Usage" in result.stdout
    assert result.returncode == 0


def test_the_help_of_compress_says_that_a_factory_runs() -> None:
    assert "imported and run" in " ".join(fxpress("compress", "--help").stdout.replace("│", " ").split())


def test_an_unknown_model_is_one_line_and_exit_code_2() -> None:
    refused(fxpress("inspect", "digits-cn"), "digits-cn", "one of the zoo: digits-cnn")


def test_a_tampered_artifact_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    fx.lower(residual_net(), "reference", out=tmp_path / "net")
    payload = next(path for path in (tmp_path / "net").iterdir() if path.suffix == ".safetensors")
    data = bytearray(payload.read_bytes())
    data[-1] ^= 1
    payload.write_bytes(data)
    refused(fxpress("inspect", str(tmp_path / "net")), payload.name, "hash mismatch")


def test_a_folder_that_cannot_be_written_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    refused(fxpress("demo", "--out", str(tmp_path / "file" / "out"), "--json"), "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_it_is_a_command_of_its_own() -> None:
    command = [sys.executable, "-m", "fxpress.cli", "inspect", "nothing"]
    refused(subprocess.run(command, capture_output=True, text=True, check=False), "nothing")


def test_too_few_repeats_are_bad_usage() -> None:
    assert fxpress("demo", "--repeats", "3").returncode == 2


NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)))

def make():
    return Net(), torch.randn(2, 3, 6, 6), {"x": {0: torch.export.Dim("batch")}}

def batches():
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        yield (torch.randn(4, 3, 6, 6, generator=generator),)

def nan():
    return [(torch.full((4, 3, 6, 6), float("nan")),)]

def number():
    return 3

def branches():
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x
    return Branches(), torch.ones(2, 3)
"""
INTEGER = "fold-batch-norm, quantize-dyadic"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with a model, data and recipes in it, good and bad."""
    generator = np.random.default_rng(0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "net.py").write_text(NET)
    np.savez("x.npz", generator.standard_normal((6, 3, 6, 6)).astype(np.float32))
    np.savez("objects.npz", x=np.array([None]))
    np.savez("narrow.npz", x=np.zeros((6, 3, 6, 5), np.float32))
    for name in ("images", "broken", "empty"):
        (tmp_path / name).mkdir()
    for place in range(3):
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), np.uint8)).save(f"images/{place}.png")
    (tmp_path / "broken" / "a.png").write_text("no image")
    (tmp_path / "hello.pt2").write_text("hello")
    (tmp_path / "good.yaml").write_text(
        "version: 1\npipeline: [fold-batch-norm, quantize-dyadic]\ncalibration: {source: x.npz, batch_size: 4}\ntargets: reference\n"
    )
    (tmp_path / "typo.yaml").write_text("version: 1\npipeline:\n  - quantize-dyadic: {weight_bit: 4}\n")
    (tmp_path / "floor.yaml").write_text(
        "version: 1\npipeline: fold-batch-norm, quantize-dyadic\ntargets: reference\nrequire: {sqnr_db: 200}\n"
    )
    yield tmp_path
    sys.modules.pop("net", None)


def compressed(*arguments: str) -> Completed:
    return fxpress("compress", "net:make", "--out", "out", *arguments)


def test_compress_by_a_recipe(here: Path) -> None:
    result = compressed("--recipe", "good.yaml", "--json")
    assert result.returncode == 0, result.stderr
    data = json.loads(result.stdout)
    assert data["held"]
    assert [(row["target"], row["same_bits"]) for row in data["rows"]] == [("reference", True)]
    assert Recipe.parse(data["recipe"]) == Recipe.read(here / "good.yaml")
    assert fx.load("out/reference").manifest["program_hash"] == data["program_hash"]


@pytest.mark.parametrize("data", ["x.npz", "images", "net:batches"])
def test_compress_by_options_on_every_kind_of_data(here: Path, data: str) -> None:
    result = compressed("--pipeline", INTEGER, "--calibration", data, "--target", "reference", "--target", "onnx:float", "--seed", "5")
    assert result.returncode == 0, result.stderr
    assert {"reference", "onnx:float", "integer", "float", "yes", "sqnr_db"} <= set(result.stdout.replace("│", " ").split())
    manifest = fx.load("out/reference").manifest
    assert (manifest["seed"], Recipe.parse(manifest["recipe"]).seed) == (5, 5)


def test_options_go_before_the_recipe(here: Path) -> None:
    result = compressed("--recipe", "good.yaml", "--target", "onnx:int", "--calibration", "net:nan", "--json")
    refused(result, "own batches")
    result = compressed("--recipe", "good.yaml", "--target", "onnx:int", "--seed", "9", "--json")
    assert [row["target"] for row in json.loads(result.stdout)["rows"]] == ["onnx:int"]
    assert fx.load("out/onnx-int").manifest["seed"] == 9


def test_kernels_are_tuned_for_this_machine_alone(here: Path) -> None:
    result = compressed("--recipe", "good.yaml", "--target", "tvm:native", "--tune", "batch=1", "--json")
    assert result.returncode == 0, result.stderr
    assert fx.load("out/tvm-native").manifest["details"]["tuned"]["sizes"] == {"batch": 1}
    refused(compressed("--recipe", "good.yaml", "--target", "reference", "--tune", "batch=1"), "nothing to tune; only tvm:native can be")
    refused(compressed("--recipe", "good.yaml", "--target", "tvm:native", "--tune", "batch"), "is no list of sizes; write it so: batch=1")


def test_weights_are_stored_sparse_and_what_measures_is_held_where_asked(here: Path) -> None:
    result = compressed("--recipe", "good.yaml", "--sparse", "--json")
    assert result.returncode == 0, result.stderr
    assert fx.load("out/reference").manifest["details"]["apart"] == {"tensors": {}}  # of so small a net none gets smaller
    refused(compressed("--recipe", "good.yaml", "--never-slower", "onnx:float"), "never-slower: no pass of the pipeline measures")
    refused(compressed("--recipe", "good.yaml", "--never-slower", "onnx:fast"), "unknown target 'onnx:fast'")


def test_measurements_are_kept_where_the_command_line_says(here: Path) -> None:
    first = compressed("--recipe", "good.yaml", "--calibration-state", "state", "--json")
    assert first.returncode == 0, first.stderr
    (path,) = (here / "state").iterdir()
    again = compressed("--pipeline", INTEGER, "--target", "reference", "--calibration-state", "state", "--json")
    assert json.loads(again.stdout)["program_hash"] == json.loads(first.stdout)["program_hash"]
    other = compressed("--recipe", "good.yaml", "--calibration", "images", "--calibration-state", "state")
    refused(other, path.name, "name another folder")
    path.write_bytes(path.read_bytes()[:-1])
    refused(compressed("--recipe", "good.yaml", "--calibration-state", "state"), path.name, "is no intact calibration state")


def test_a_missed_floor_is_exit_code_1(here: Path) -> None:
    result = compressed("--recipe", "floor.yaml", "--calibration", "x.npz")
    assert result.returncode == 1
    assert "MISSED: sqnr_db" in result.stdout
    assert (here / "out" / "reference").is_dir()


COMPRESS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "no such recipe": (("net:make", "--recipe", "gone.yaml"), ("gone.yaml", "No such file")),
    "a typo in a recipe": (("net:make", "--recipe", "typo.yaml"), ("typo.yaml:3: pipeline[0].quantize-dyadic.weight_bit", "'weight_bits'")),
    "a recipe that is no text": (("net:make", "--recipe", "images/0.png"), ("images/0.png", "UTF-8")),
    "recipe and pipeline": (("net:make", "--recipe", "good.yaml", "--pipeline", INTEGER), ("both",)),
    "neither": (("net:make",), ("neither", "--recipe")),
    "unknown pass": (("net:make", "--pipeline", "fold", "--target", "reference"), ("unknown pass 'fold'",)),
    "no target": (("net:make", "--pipeline", INTEGER), ("no target",)),
    "unknown target": (("net:make", "--recipe", "good.yaml", "--target", "onnx:in"), ("onnx:in", "nearest")),
    "a float result for integers": (
        ("net:make", "--pipeline", "fold-batch-norm", "--target", "reference"),
        ("reference", "quantize-dyadic"),
    ),
    "no calibration": (("net:make", "--pipeline", INTEGER, "--target", "reference"), ("--calibration",)),
    "no model": (("nothing", "--recipe", "good.yaml"), ("nothing", "digits-cnn")),
    "no module": (("nets:make", "--recipe", "good.yaml"), ("no module 'nets'",)),
    "no factory": (("net:mak", "--recipe", "good.yaml"), ("did you mean 'make'?",)),
    "a factory of something else": (("net:number", "--recipe", "good.yaml"), ("returned a int",)),
    "a model that cannot be captured": (("net:branches", "--recipe", "good.yaml"), ("net.py:", "torch.where")),
    "no archive": (("hello.pt2", "--recipe", "good.yaml"), ("hello.pt2", "no zip archive")),
    "a missing archive": (("gone.pt2", "--recipe", "good.yaml"), ("gone.pt2", "No such file")),
    "missing data": (("net:make", "--recipe", "good.yaml", "--calibration", "gone.npz"), ("gone.npz", "no such file")),
    "an empty folder": (("net:make", "--recipe", "good.yaml", "--calibration", "empty"), ("empty", "no images")),
    "an unreadable image": (("net:make", "--recipe", "good.yaml", "--calibration", "broken"), ("a.png", "cannot be read")),
    "pickled arrays": (("net:make", "--recipe", "good.yaml", "--calibration", "objects.npz"), ("'x'", "pickle")),
    "arrays of another shape": (("net:make", "--recipe", "good.yaml", "--calibration", "narrow.npz"), ("'x'", "dimension 3")),
    "data of no batches": (("net:make", "--pipeline", INTEGER, "--target", "reference", "--calibration", "net:number"), ("iterable",)),
    "nan": (("net:make", "--pipeline", INTEGER, "--target", "reference", "--calibration", "net:nan"), ("batch 0", "NaN")),
    "out is a file": (("net:make", "--recipe", "good.yaml", "--out", "good.yaml"), ("good.yaml", "not a folder")),
    "the state is a file": (("net:make", "--recipe", "good.yaml", "--calibration-state", "good.yaml"), ("good.yaml", "is not a folder")),
    "dump is a file": (("net:make", "--recipe", "good.yaml", "--dump", "good.yaml/dump"), ("good.yaml/dump",)),
}


@pytest.mark.parametrize("case", COMPRESS)
def test_what_compress_cannot_do_is_one_line_and_leaves_nothing(case: str, here: Path) -> None:
    arguments, words = COMPRESS[case]
    before = sorted(here.rglob("*"))
    refused(fxpress("compress", "--out", "out", *arguments), *words)
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("arguments", [("net:make",), ("--out", "out"), ("net:make", "--out", "out", "--seed", "-1")])
def test_bad_usage_of_compress_is_exit_code_2(here: Path, arguments: tuple[str, ...]) -> None:
    assert fxpress("compress", *arguments).returncode == 2


def with_vectors(folder: Path, change: Callable[[dict[str, Any]], object] | None = None, *, exact: bool = True) -> Path:
    """An artifact with conformance vectors; `change` gets the arrays and the record before they are written."""
    artifact = fx.lower(residual_net(), "reference", out=folder)
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    parts = {"x": x, "y": artifact.run(x)[0].copy()}
    record = {"file": "conformance.safetensors", "inputs": ["x"], "outputs": ["y"], "exact": exact}
    if change is not None:
        change({**parts, "record": record})
    save_file(parts, folder / "conformance.safetensors")
    resealed(folder, conformance=record)
    return folder


def resealed(folder: Path, **changes: Any) -> None:
    """The manifest written anew, as if the artifact had been made so."""
    manifest = {name: value for name, value in manifests.read(folder).items() if name != "sha256"}
    (folder / manifests.NAME).unlink()
    (folder / manifests.NAME).write_bytes(manifests.seal({**manifest, "files": folders.inventory(folder), **changes}))


def checks(result: Completed) -> dict[str, bool]:
    return {entry["what"]: entry["held"] for entry in json.loads(result.stdout)["checks"]}


def test_verify_runs_the_vectors(tmp_path: Path) -> None:
    result = fxpress("verify", str(with_vectors(tmp_path / "net")), "--json")
    assert result.returncode == 0, result.stderr
    assert checks(result) == {"hashes": True, "certificate": True, "proofs": True, "conformance of y": True}
    text = fxpress("verify", str(tmp_path / "net"))
    assert "ok: conformance of y: same bits" in text.stdout


def test_verify_says_when_there_are_no_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxpress_backends.conformance.write", lambda program, folder: None)
    fx.lower(residual_net(), "reference", out=tmp_path / "net")
    result = fxpress("verify", str(tmp_path / "net"))
    assert result.returncode == 0
    assert "no conformance vectors" in result.stdout


def nudged(parts: dict[str, Any]) -> None:
    parts["y"].flat[3] += 0.0001


@pytest.mark.parametrize(
    ("exact", "code", "seen"),
    [(True, 1, "FAILED: conformance of y: 1 of 20 values differ"), (False, 0, "ok: conformance of y: differs by")],
)
def test_verify_compares_bits_of_integers_and_closeness_of_floats(tmp_path: Path, exact: bool, code: int, seen: str) -> None:
    result = fxpress("verify", str(with_vectors(tmp_path / "net", nudged, exact=exact)))
    assert result.returncode == code
    assert seen in result.stdout


def test_verify_fails_where_floats_are_far(tmp_path: Path) -> None:
    result = fxpress("verify", str(with_vectors(tmp_path / "net", lambda parts: parts["y"].__imul__(1.01), exact=False)), "--json")
    assert result.returncode == 1
    assert checks(result)["conformance of y"] is False


def test_verify_fails_without_a_certificate(tmp_path: Path) -> None:
    folder = with_vectors(tmp_path / "net")
    (folder / "certificate.json").unlink()
    resealed(folder)
    result = fxpress("verify", str(folder), "--json")
    assert result.returncode == 1
    assert checks(result) == {"hashes": True, "certificate": False, "conformance of y": True}


@pytest.mark.parametrize("change", [{"program_hash": "0" * 64}, {"facts": []}, {"low": -(2**40)}])
def test_verify_fails_on_a_certificate_that_does_not_prove_it(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = with_vectors(tmp_path / "net")
    certificate = json.loads((folder / "certificate.json").read_text())
    certificate["facts"][0] |= {name: value for name, value in change.items() if name == "low"}
    (folder / "certificate.json").write_text(json.dumps(certificate | change))
    resealed(folder)
    assert fxpress("verify", str(folder)).returncode == 1


VERIFY: dict[str, tuple[Callable[[Path], object], str]] = {
    "no artifact": (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
    "a changed vector": (lambda folder: (folder / "conformance.safetensors").write_bytes(b"x"), "hash mismatch"),
    "vectors that are no tensors": (
        lambda folder: ((folder / "conformance.safetensors").write_bytes(b"x"), resealed(folder)),
        "conformance record is malformed",
    ),
    "a name without a vector": (
        lambda folder: resealed(folder, conformance={"file": "conformance.safetensors", "inputs": ["z"], "outputs": ["y"], "exact": True}),
        "conformance record is malformed",
    ),
    "a vector that does not fit": (
        lambda folder: resealed(folder, conformance={"file": "conformance.safetensors", "inputs": ["y"], "outputs": ["y"], "exact": True}),
        "'x'",
    ),
    "a certificate of something else": (
        lambda folder: ((folder / "certificate.json").write_text("{}"), resealed(folder)),
        "certificate.json is malformed",
    ),
}


@pytest.mark.parametrize("case", VERIFY)
def test_verify_of_a_damaged_artifact_is_exit_code_2(case: str, tmp_path: Path) -> None:
    damage, word = VERIFY[case]
    damage(with_vectors(tmp_path / "net"))
    refused(fxpress("verify", str(tmp_path / "net")), word)


def test_bench_prints_ratios_against_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = partial(fxpress_backends.bench.bench, quick=True, pause=0.0, warmup=1)
    given: dict[str, Any] = {}

    def measure(artifacts: Any, *, repeats: int, **options: Any) -> Any:
        given.update(options, repeats=repeats)
        return quick(artifacts, repeats=5, **options)

    monkeypatch.setattr(fxpress_backends.bench, "bench", measure)
    for name in ("a", "b"):
        fx.lower(residual_net(), "reference", out=tmp_path / name)
    folders = (str(tmp_path / "a"), str(tmp_path / "b"))
    result = fxpress("bench", *folders, "--batch", "3", "--threads", "1", "--repeats", "40", "--json")
    assert result.returncode == 0, result.stderr
    data = json.loads(result.stdout)
    assert [row["folder"] for row in data["rows"]] == list(folders)
    assert data["rows"][0]["ratio"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert data["rows"][1]["ratio"]["low"] <= data["rows"][1]["ratio"]["median"] <= data["rows"][1]["ratio"]["high"]
    assert (given["repeats"], given["threads"], given["sizes"]) == (40, 1, {"batch": 3})


def test_bench_of_no_artifact_is_one_line(tmp_path: Path) -> None:
    refused(fxpress("bench", str(tmp_path)), "manifest.json is missing")
    assert fxpress("bench", str(tmp_path), "--repeats", "3").returncode == 2


def test_bench_over_rpc_needs_a_key_and_artifacts_of_tvm(tmp_path: Path) -> None:
    fx.lower(residual_net(), "reference", out=tmp_path / "a")
    refused(fxpress("bench", str(tmp_path / "a"), "--rpc", "localhost:9190"), "rpc and key go together")
    message = "contender 'a (reference)': only TVM artifacts are measured over RPC, this one is of reference"
    refused(fxpress("bench", str(tmp_path / "a"), "--rpc", "localhost:9190", "--key", "board", "--wait", "1"), message)


def test_bench_of_a_fixed_batch_says_so(here: Path) -> None:
    (here / "net.py").write_text(NET.replace(', {"x": {0: torch.export.Dim("batch")}}', ""))
    compressed("--pipeline", "fold-batch-norm", "--target", "onnx:float")
    refused(fxpress("bench", "out/onnx-float", "--batch", "3"), "fixed size", "[2, 3, 6, 6]")
