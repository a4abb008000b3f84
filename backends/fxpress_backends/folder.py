"""A folder that appears whole or not at all, and whose every file is listed with its size and SHA-256."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from fxpress_ir.errors import ArtifactError

from . import manifest

_ELSEWHERE = "choose another folder"


def check_place(out: Path) -> None:
    """Hold `out` to being creatable or ours to replace, before any work.

    Raises:
        ArtifactError: it is a file, a folder that holds something else than an intact artifact, or below a place that
            is no writable folder.
    """
    where = f"output {str(out)!r}"
    try:
        if out.is_dir():
            _check_replaceable(out)
        elif out.exists():
            raise ArtifactError("exists and is not a folder", where=where, way_on=_ELSEWHERE)
        ancestor = next(parent for parent in out.parents if parent.exists())
    except OSError as error:
        raise ArtifactError(f"cannot be looked at: {error.strerror}", where=where, way_on=_ELSEWHERE) from error
    if not ancestor.is_dir():
        raise ArtifactError(f"{str(ancestor)!r} is not a folder", where=where, way_on=_ELSEWHERE)
    if not os.access(ancestor, os.W_OK | os.X_OK):
        raise ArtifactError(f"{str(ancestor)!r} is not writable", where=where, way_on=_ELSEWHERE)


def _check_replaceable(out: Path) -> None:
    """An empty folder, or an artifact that holds no file of anybody else's."""
    where, way_on = f"output {str(out)!r}", "choose another folder or remove this one"
    if not any(out.iterdir()):
        return
    try:
        listed = manifest.read(out)["files"]
    except ArtifactError as error:
        raise ArtifactError("exists and is not an intact artifact", where=where, way_on=way_on) from error
    strangers = sorted(files_below(out) - {*listed, manifest.NAME})
    if strangers:
        raise ArtifactError(f"holds {strangers[0]!r}, which is not the artifact's", where=where, way_on=way_on)


@contextmanager
def whole(out: Path) -> Iterator[Path]:
    """A new folder beside `out` to write into: it becomes `out` when the block ends and vanishes when the block fails.

    Raises:
        ArtifactError: the file system refused.
    """
    made = [parent for parent in out.parents if not parent.exists()]
    mark = secrets.token_hex(4)
    fresh, aside = (out.parent / f".{out.name}.{kind}-{mark}" for kind in ("new", "old"))
    try:
        fresh.mkdir(parents=True)
        yield fresh
        if out.exists():
            out.rename(aside)
        fresh.rename(out)
    except BaseException as error:
        shutil.rmtree(fresh, ignore_errors=True)
        if aside.exists() and not out.exists():
            aside.rename(out)
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        if isinstance(error, OSError):
            raise ArtifactError(f"cannot be written: {error}", where=f"output {str(out)!r}", way_on=_ELSEWHERE) from error
        raise
    shutil.rmtree(aside, ignore_errors=True)


def files_below(folder: Path) -> set[str]:
    """The relative POSIX paths of all files.

    Raises:
        ArtifactError: something is neither a regular file nor a folder; links could lead outside.
    """
    found = set()
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ArtifactError(f"{name!r} is not a regular file", where=f"artifact {str(folder)!r}", way_on="remove it")
        if path.is_file():
            found.add(name)
    return found


def inventory(folder: Path) -> dict[str, dict[str, Any]]:
    """Size in bytes and SHA-256 of every file."""
    return {name: {"sha256": _sha256(folder / name), "size": (folder / name).stat().st_size} for name in sorted(files_below(folder))}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_inventory(folder: Path, listed: Mapping[str, Mapping[str, Any]]) -> None:
    """Hold the files, the manifest apart, to their list.

    Raises:
        ArtifactError: a listed path leads outside; a file is missing, is not listed, or has other bytes.
    """
    where, way_on = f"artifact {str(folder)!r}", "lower the program again"
    present = files_below(folder) - {manifest.NAME}
    for name in listed:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or str(path) != name:
            raise ArtifactError(f"the manifest lists {name!r}, which leads outside", where=where, way_on=way_on)
    for name in sorted(listed.keys() - present):
        raise ArtifactError(f"file {name!r} is missing", where=where, way_on=way_on)
    for name in sorted(present - listed.keys()):
        raise ArtifactError(f"file {name!r} is not listed in the manifest", where=where, way_on="remove it")
    for name, entry in listed.items():
        if (folder / name).stat().st_size != entry["size"] or _sha256(folder / name) != entry["sha256"]:
            raise ArtifactError(f"hash mismatch in {name!r}", where=where, way_on=way_on)
