"""target name ==> backend: the one table of backends; a backend is imported when it is asked for."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fxpress_ir.errors import BackendError

from .contract import Backend, Target


@dataclass(frozen=True)
class Entry:
    """One row of the table.

    Attributes:
        family: what its targets' names begin with, up to the colon.
        backend: imports and returns the backend; cheap, its runtime is imported later.
        distributions: the installed packages whose versions an artifact records.
    """

    family: str
    backend: Callable[[], Backend]
    distributions: tuple[str, ...] = ()


def _reference() -> Backend:
    from .reference import REFERENCE

    return REFERENCE


def _onnx() -> Backend:
    from .onnx import ONNX

    return ONNX


def _tvm() -> Backend:
    from .tvm import TVM

    return TVM


Registry = Sequence[Entry]
BACKENDS: Registry = (
    Entry("reference", _reference),
    Entry("onnx", _onnx, ("onnx", "onnxruntime")),
    Entry("tvm", _tvm, ("apache-tvm",)),
)


def targets(registry: Registry = BACKENDS) -> tuple[Target, ...]:
    """Every target of every backend, in the table's order."""
    return tuple(target for entry in registry for target in entry.backend().targets())


def find(name: str, registry: Registry = BACKENDS) -> tuple[Entry, Target]:
    """The table's row and the target called `name`.

    Raises:
        BackendError: there is none; the message names the nearest.
    """
    for entry in registry:
        if entry.family == name.split(":", 1)[0]:
            for target in entry.backend().targets():
                if target.name == name:
                    return entry, target
    near = difflib.get_close_matches(name, [target.name for target in targets(registry)], n=3, cutoff=0.4)
    nearest = f"nearest: {', '.join(near)}; " if near else ""
    raise BackendError(f"unknown target {name!r}", way_on=f"{nearest}`fxpress targets` lists all")
