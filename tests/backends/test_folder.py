"""The folder of an artifact: whole or not at all, and nothing of anybody else's is touched."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from fxpress_backends.artifact import load, lower
from fxpress_backends.contract import Refusal, Target
from fxpress_backends.reference import REFERENCE
from fxpress_backends.registry import Entry
from fxpress_ir import Program
from fxpress_ir.errors import ArtifactError
from support import residual_net


@pytest.fixture(scope="module")
def program() -> Program:
    return residual_net()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_lowering_again_replaces_the_artifact(program: Program, tmp_path: Path) -> None:
    artifact = lower(program, "reference", tmp_path / "net", seed=3)
    assert lower(program, "reference", artifact.folder, seed=4).manifest["seed"] == 4
    assert load(artifact.folder).manifest["seed"] == 4
    assert [path.name for path in artifact.folder.parent.iterdir()] == ["net"]


class _Failing:
    """A backend that fails half-way through its payload."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def targets(self) -> tuple[Target, ...]:
        return (Target("failing", "for tests", ("integer",)),)

    def legalize(self, program: Program, target: Target) -> tuple[Refusal, ...]:
        return ()

    def lower(self, program: Program, target: Target, folder: Path) -> Mapping[str, Any]:
        (folder / "half").write_text("written")
        raise self._error

    load = REFERENCE.load


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("error", [RuntimeError("compiler crashed"), OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_everything_as_it_was(program: Program, tmp_path: Path, error: BaseException, before: bool) -> None:
    out = tmp_path / "new" / "net"
    if before:
        lower(program, "reference", out)
    old = contents(tmp_path)
    expected = ArtifactError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        lower(program, "failing", out, registry=[Entry("failing", lambda: _Failing(error))])
    assert contents(tmp_path) == old
    assert [path.name for path in tmp_path.iterdir()] == (["new"] if before else [])


def test_a_replacement_that_fails_restores_the_old(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = lower(program, "reference", tmp_path / "net")
    old, rename = contents(artifact.folder.parent), Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if ".new-" in self.name:
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ArtifactError, match="Permission denied"):
        lower(program, "reference", artifact.folder, seed=9)
    assert contents(artifact.folder.parent) == old


def _a_file(out: Path) -> None:
    out.write_text("notes")


def _a_file_above(out: Path) -> None:
    shutil.rmtree(out.parent)
    out.parent.write_text("notes")


def _a_foreign_folder(out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")


def _an_artifact_with_a_strangers_file(out: Path) -> None:
    lower(residual_net(), "reference", out)
    (out / "notes.txt").write_text("mine")


@pytest.mark.parametrize(
    ("obstacle", "message"),
    [
        (_a_file, "exists and is not a folder"),
        (_a_file_above, "is not a folder"),
        (_a_foreign_folder, "exists and is not an intact artifact; choose another folder or remove this one"),
        (_an_artifact_with_a_strangers_file, "holds 'notes.txt', which is not the artifact's"),
    ],
)
def test_nothing_of_anybody_elses_is_overwritten(program: Program, tmp_path: Path, obstacle: Callable[[Path], None], message: str) -> None:
    out = tmp_path / "below" / "net"
    out.parent.mkdir()
    obstacle(out)
    old = contents(tmp_path)
    with pytest.raises(ArtifactError, match=message) as caught:
        lower(program, "reference", out)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == old


def test_a_read_only_place_is_refused_before_and_while_writing(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        with pytest.raises(ArtifactError, match="is not writable; choose another folder"):
            lower(program, "reference", tmp_path / "net")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", forbid)
        with pytest.raises(ArtifactError, match=r"cannot be written: .*Permission denied"):
            lower(program, "reference", tmp_path / "net")
    assert not any(tmp_path.iterdir())


def test_an_empty_folder_is_filled(program: Program, tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    assert lower(program, "reference", tmp_path / "net").folder == tmp_path / "net"
