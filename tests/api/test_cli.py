"""The command line as a user runs it: what it prints, its exit codes, one line an error."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import fxpress as fx
import pytest
from fxpress.cli import main
from fxpress_passes import PASSES
from support import residual_net

Completed = subprocess.CompletedProcess[str]


def fxpress(*arguments: str) -> Completed:
    """The command in this process, because starting another takes seconds."""
    out, err, code = StringIO(), StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["fxpress", *arguments])
        try:
            main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    return Completed(arguments, code, out.getvalue(), err.getvalue())


def refused(result: Completed, *words: str) -> None:
    """Exit code 2 and one line on stderr that holds `words`."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr


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


@pytest.mark.parametrize("command", [(), ("--help",), ("demo", "--help"), ("inspect", "--help")])
def test_help_is_there(command: tuple[str, ...]) -> None:
    result = fxpress(*command)
    assert "Usage" in result.stdout + result.stderr


def test_an_unknown_model_is_one_line_and_exit_code_2() -> None:
    refused(fxpress("inspect", "digits-cn"), "digits-cn", "known: digits-cnn")


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
