"""Artifacts: the same bits after a round trip, and no byte changed unseen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fxpress_backends import manifest as manifests
from fxpress_backends.artifact import Artifact, load, lower
from fxpress_backends.contract import Measured, Refusal, Target
from fxpress_backends.reference import REFERENCE
from fxpress_backends.registry import Entry
from fxpress_ir import Program
from fxpress_ir.errors import ArtifactError, BackendError, InputError, VerifyError
from support import aten, built, fxp, residual_net


@pytest.fixture(scope="module")
def program() -> Program:
    return residual_net().noted("quantize-dyadic{weight_bits=8}")


@pytest.fixture
def artifact(program: Program, tmp_path: Path) -> Artifact:
    return lower(program, "reference", tmp_path / "net", recipe="quantize-dyadic", seed=3, measured=[Measured("top1", 0.9, "digits")])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("batch", [1, 4])
def test_a_loaded_artifact_gives_the_bits_of_the_program(artifact: Artifact, program: Program, batch: int) -> None:
    x = torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch))
    again = load(artifact.folder, threads=1)
    for value in (x, x.numpy(), x.numpy().transpose(0, 1, 3, 2).copy().transpose(0, 1, 3, 2)):
        (result,) = again.run(value)
        assert result.tobytes() == program.run(x)[0].numpy().tobytes()


def test_options_at_the_run_go_over_those_at_the_load(artifact: Artifact) -> None:
    seen: list[str] = []
    x = np.zeros((1, 3, 8, 8), np.float32)
    artifact.run(x, observe=lambda name, _: seen.append(name))
    assert seen[0] == "quantize_default"
    count = len(seen)
    artifact.run(x)
    assert len(seen) == count


def test_the_manifest_says_what_the_artifact_is(artifact: Artifact, program: Program) -> None:
    manifest = artifact.manifest
    assert (manifest["target"], manifest["stage"], manifest["program_hash"]) == ("reference", "integer", program.hash)
    assert manifest["history"] == ["quantize-dyadic{weight_bits=8}"]
    assert manifest["outputs"] == [{"dtype": "float32", "shape": ["batch", 10]}]
    assert (manifest["recipe"], manifest["seed"], manifest["measured"]) == (
        "quantize-dyadic",
        3,
        [{"name": "top1", "value": 0.9, "data": "digits"}],
    )
    assert set(manifest["versions"]) == {"fxpress", "torch", "numpy"}
    assert artifact.inputs == program.inputs
    facts = json.loads((artifact.folder / "certificate.json").read_text())["facts"]
    assert facts
    assert all(fact["least"] <= fact["low"] <= fact["high"] <= fact["most"] for fact in facts)
    on_disk = {name: len(content) for name, content in contents(artifact.folder).items()}
    assert artifact.size == sum(on_disk.values())
    assert artifact.payload_size == on_disk["graph.json"] + on_disk["tensors.safetensors"]
    assert str(artifact).endswith(f"(x: float32[batch, 3, 8, 8]) -> float32[batch, 10], {artifact.size} bytes")


def test_the_same_program_gives_the_same_bytes(program: Program, tmp_path: Path) -> None:
    folders = [lower(program, "reference", tmp_path / name / "deep", seed=1).folder for name in ("a", "b")]
    assert contents(folders[0]) == contents(folders[1])


@pytest.mark.parametrize("name", ["manifest.json", "certificate.json", "graph.json", "tensors.safetensors"])
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_one_changed_byte_is_found(artifact: Artifact, name: str, place: float) -> None:
    path = artifact.folder / name
    content = bytearray(path.read_bytes())
    content[round(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
        load(artifact.folder)


def resealed(artifact: Artifact, change: Callable[[dict[str, Any]], object]) -> None:
    """A manifest edited by someone who also mends its hash."""
    data = {key: value for key, value in artifact.manifest.items() if key != "sha256"}
    change(data)
    (artifact.folder / manifests.NAME).write_bytes(manifests.seal(data))


def _link_outside(folder: Path) -> None:
    (folder / "graph.json").rename(folder.parent / "graph.json")
    (folder / "graph.json").symlink_to(folder.parent / "graph.json")


DAMAGES: dict[str, tuple[Callable[[Artifact], object], str]] = {
    "no manifest": (lambda a: (a.folder / "manifest.json").unlink(), "manifest.json is missing"),
    "no JSON": (lambda a: (a.folder / "manifest.json").write_text("{"), "manifest.json is not JSON"),
    "another's manifest": (lambda a: (a.folder / "manifest.json").write_text('{"name": "app"}'), "not an fxpress manifest"),
    "another version": (lambda a: resealed(a, lambda data: data.update(format_version=2)), "format version is 2, this fxpress reads 1"),
    "missing file": (lambda a: (a.folder / "tensors.safetensors").unlink(), "'tensors.safetensors' is missing"),
    "extra file": (lambda a: (a.folder / "extra.so").write_text("x"), "'extra.so' is not listed"),
    "link": (lambda a: _link_outside(a.folder), "'graph.json' is not a regular file"),
    "edited": (
        lambda a: (a.folder / "manifest.json").write_text(json.dumps({**a.manifest, "target": "onnx:int"})),
        "mismatch in manifest.json",
    ),
    "no files": (lambda a: resealed(a, lambda data: data.pop("files")), "the manifest is malformed"),
    "files no table": (lambda a: resealed(a, lambda data: data.update(files=["graph.json"])), "the manifest is malformed"),
    "path outside": (
        lambda a: resealed(a, lambda data: data["files"].update({"../net/x": {"sha256": "", "size": 0}})),
        "lists '../net/x', which leads outside",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_artifact_is_refused_in_one_line(artifact: Artifact, damage: str) -> None:
    harm, message = DAMAGES[damage]
    harm(artifact)
    with pytest.raises(ArtifactError, match=message) as caught:
        load(artifact.folder)
    assert "\n" not in str(caught.value)


def test_an_unknown_target_in_the_manifest_is_refused(artifact: Artifact) -> None:
    resealed(artifact, lambda data: data.update(target="reference:2"))
    with pytest.raises(BackendError, match="unknown target 'reference:2'"):
        load(artifact.folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((), "0 inputs given, 1 expected; pass x: float32"),
        ((np.zeros((1, 3, 8, 9), np.float32),), "dimension 3 is 9, expected 8"),
        ((np.zeros((3, 8, 8), np.float32),), "has 3 dimensions"),
        ((np.zeros((0, 3, 8, 8), np.float32),), "'batch' is 0, outside"),
        ((np.zeros((1, 3, 8, 8)),), "dtype is torch.float64, expected torch.float32"),
        ((np.full((1, 3, 8, 8), np.nan, np.float32),), "holds NaN or infinity"),
        ((torch.full((1, 3, 8, 8), float("inf")),), "holds NaN or infinity"),
        ((["a picture"],), "a list that is no array of numbers"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(artifact: Artifact, values: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        artifact.run(*values)


def test_a_program_of_another_stage_is_refused(program: Program, tmp_path: Path) -> None:
    floats = built((2, 3), lambda edit, x: edit.call(aten.neg.default, x), stage="float")
    with pytest.raises(BackendError, match=r"target 'reference': takes integer programs, this one is float; onnx:float, tvm:.* take it"):
        lower(floats, "reference", tmp_path / "net")
    with pytest.raises(BackendError, match="unknown target 'referense'; nearest: reference"):
        lower(program, "referense", tmp_path / "net")
    wrong = built((2, 3), lambda edit, x: edit.call(aten.neg.default, edit.call(fxp.quantize.default, x, 0.1, -127, 127, torch.int8)))
    with pytest.raises(VerifyError, match="not an integer operator"):
        lower(wrong, "reference", tmp_path / "net")
    assert not any(tmp_path.iterdir())


class _Refusing:
    """A backend that takes nothing."""

    def targets(self) -> tuple[Target, ...]:
        return (Target("refusing", "for tests", ("integer",)),)

    def legalize(self, program: Program, target: Target) -> tuple[Refusal, ...]:
        return (Refusal("conv2d_default", "3 groups", "split it"), Refusal("add_default", "too wide"))

    lower, load = REFERENCE.lower, REFERENCE.load


def test_refusals_name_the_first_node_and_note_the_rest(program: Program, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="target 'refusing', conv2d_default: 3 groups; split it") as caught:
        lower(program, "refusing", tmp_path / "net", registry=[Entry("refusing", _Refusing)])
    assert caught.value.__notes__ == ["add_default: too wide"]
    assert not any(tmp_path.iterdir())


def test_quality_that_is_no_number_is_refused(program: Program, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="measured 'top1' is nan"):
        lower(program, "reference", tmp_path / "net", measured=[Measured("top1", float("nan"))])
