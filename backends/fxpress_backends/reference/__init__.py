"""The ``reference`` target: an interpreter in NumPy integers that decides which bits are right."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fxpress_ir import Program

from ..contract import Backend, Refusal, Runner, Target
from . import legalize, lower, run
from .kernels import KERNELS
from .run import Interpreter

_TARGET = Target("reference", "NumPy integers, node by node: the arbiter of bits, not of speed", ("integer",), features=("numpy",))


class _Reference:
    """The room's four doors; there is one target, so which one is never asked."""

    def targets(self) -> tuple[Target, ...]:
        return (_TARGET,)

    def legalize(self, program: Program, target: Target) -> tuple[Refusal, ...]:
        return tuple(legalize.refusals(program))

    def lower(self, program: Program, target: Target, folder: Path) -> Mapping[str, Any]:
        return lower.write(program, folder)

    def lower_sparse(self, program: Program, target: Target, folder: Path, sizes: Mapping[str, int] | None) -> Mapping[str, Any]:
        return lower.write(program, folder, is_sparse=True)

    def load(self, folder: Path, manifest: Mapping[str, Any], options: Mapping[str, Any]) -> Runner:
        return run.load(folder, options, manifest.get("details", {}).get("apart"))


REFERENCE: Backend = _Reference()

__all__ = ["KERNELS", "REFERENCE", "Interpreter"]
