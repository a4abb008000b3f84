"""folder <==> states by program and kind, each written whole or not at all; states of several runs ==> one."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import reduce
from os import PathLike
from pathlib import Path
from typing import Any

from fxpress_ir.errors import CalibrationError

from .ranges import merged
from .state import State, packed, unpacked

_Key = tuple[str, str, str]
"""Kind, program, question."""
SECONDS = 10.0
"""Between two writings of a state that grows: what a run that is killed may lose."""


class States:
    """A folder of states, one file a program, kind and question; made when the first is written.

    Args:
        seconds: between two writings of a state that grows.

    Raises:
        CalibrationError: `folder` is a file; it cannot be written, or a state in it cannot be read.
    """

    def __init__(self, folder: str | PathLike[str], seconds: float = SECONDS) -> None:
        self.folder, self.seconds = Path(folder), seconds
        self.where = f"calibration state {str(self.folder)!r}"
        if self.folder.exists() and not self.folder.is_dir():
            raise CalibrationError("is not a folder", where=self.where, way_on="name a folder")

    def path(self, kind: str, program: str, question: str = "") -> Path:
        """Where a state lies."""
        asked = f"-{hashlib.sha256(question.encode()).hexdigest()[:16]}" if question else ""
        return self.folder / f"{kind}-{program}{asked}.safetensors"

    def read(self, kind: str, program: str, question: str = "") -> State[Any] | None:
        """The state of a kind, a program (its hash) and a question; None where there is none yet."""
        path = self.path(kind, program, question)
        return self._at(path) if path.exists() else None

    def read_all(self, kind: str = "*", program: str = "") -> list[State[Any]]:
        """Every state of the folder, of a kind or of a program, by name."""
        return [self._at(path) for path in sorted(self.folder.glob(f"{kind}-{program}*.safetensors"))]

    def _at(self, path: Path) -> State[Any]:
        state = unpacked(path)
        if self.path(state.kind, state.program, state.question) != path:
            what = f"holds {state.kind} of program {state.program[:12]}, not what its name says"
            raise CalibrationError(what, where=f"calibration state {str(path)!r}", way_on="give it its name back, or remove it")
        return state

    def write(self, state: State[Any]) -> None:
        """Put `state` in the place of what was there."""
        path = self.path(state.kind, state.program, state.question)
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with fresh.open("wb") as file:
                file.write(packed(state))
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        except BaseException as error:
            with suppress(OSError):
                fresh.unlink(missing_ok=True)
            if not isinstance(error, OSError):
                raise
            raise CalibrationError(f"cannot be written: {error.strerror}", where=self.where, way_on="name a writable folder") from error


def merge_calibration(folders: Iterable[str | PathLike[str]], out: str | PathLike[str]) -> None:
    """Join what runs over different data measured of the same programs, as if one run had seen all of them.

    What choices cost is joined where every run tried the same, and left out otherwise; so are largest eigenvalues, of which those of
    a mean are no mean. What is left out is measured anew when it is asked for.

    Args:
        folders: the runs' folders, as given to ``Pipeline.run(state=...)``.
        out: a folder without states, for the joined ones.

    Raises:
        CalibrationError: no folder; one holds no state, states of other programs or kinds, or one that was interrupted;
            two hold a run over the same data; `out` holds a state.
    """
    given, target = [States(folder) for folder in folders], States(out)
    if not given:
        raise CalibrationError("no folder to merge", way_on="name the folders of two runs or more")
    if target.read_all():
        raise CalibrationError("holds states already", where=target.where, way_on="merge into another folder")
    found = [_by_key(states) for states in given]
    for states, own in zip(given, found, strict=True):
        for kind, program, question in sorted(_strict(found[0]) ^ _strict(own)):
            holder, other = (given[0], states) if (kind, program, question) in found[0] else (states, given[0])
            what = f"holds no {kind} of program {program[:12]}, which {str(holder.folder)!r} holds"
            raise CalibrationError(what, where=other.where, way_on="calibrate the same model by the same pipeline")
    shared = set.intersection(*(set(own) for own in found))
    for state in [reduce(_joined, (own[key] for own in found)) for key in sorted(shared)]:
        target.write(state)


def _by_key(states: States) -> dict[_Key, State[Any]]:
    kept = [state for state in states.read_all() if state.kind != "eigenvalues" and (state.complete or state.kind != "tallies")]
    if not kept:
        raise CalibrationError("holds no state", where=states.where, way_on="name the folder of a run that calibrated")
    for state in kept:
        if not state.complete:
            what = f"{state.kind} of program {state.program[:12]} were interrupted after {state.batches} batches"
            raise CalibrationError(what, where=states.where, way_on="run it to its end first")
    return {(state.kind, state.program, state.question): state for state in kept}


def _strict(found: Mapping[_Key, State[Any]]) -> set[_Key]:
    """Those that every run must hold; which choices are tried may hang on what was found before."""
    return {key for key in found if key[0] != "tallies"}


def _joined(one: State[Any], other: State[Any]) -> State[Any]:
    if set(one.runs) & set(other.runs):
        what = f"two states saw the same {min(set(one.runs) & set(other.runs)).batches} batches"
        raise CalibrationError(what, where=f"{one.kind} of program {one.program[:12]}", way_on="merge runs over different data")
    runs = tuple(sorted((*one.runs, *other.runs)))
    return State(one.kind, one.program, merged(one.found, other.found), runs, complete=True, question=one.question)
