"""TVM: integers by a physical plan and TIR kernels of our own, floats by TVM's importer; importing this package does not import TVM."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fxpress_ir import Program
from fxpress_ir.errors import BackendError

from fxpress_backends.contract import Refusal, Runner, Target

from . import cpu, cross

RUNNER = Path(__file__).with_name("run.cpp")
"""Source of the program that runs a library where there is no Python."""


class TvmBackend:
    """This machine's targets, for float, mixed and integer programs, and those of others, for integer programs."""

    def targets(self) -> tuple[Target, ...]:
        """The cards; that of ``tvm:native`` describes this machine."""
        offered = cpu.host_features()
        return (cpu.x86_64(), cpu.native(offered), *cross.cards(offered))

    def legalize(self, program: Program, target: Target) -> tuple[Refusal, ...]:
        from .legalize import refusals

        return refusals(program, target)

    def lower(self, program: Program, target: Target, folder: Path) -> Mapping[str, Any]:
        """Write the shared library; the details name it, LLVM's target, the CPU features it needs and the groups.

        Raises:
            BackendError: the program is refused, the target is for a kind of machine that this one cannot compile for, no
                C compiler is found, or TVM cannot compile the floats to what PyTorch computes.
        """
        from .legalize import broken_rules
        from .lower import write

        found = broken_rules(program, target)
        if found:
            raise BackendError(found[0].reason, where=f"{target.name}, {found[0].node}", way_on=found[0].way_on)
        return write(program, target, folder)

    def load(self, folder: Path, manifest: Mapping[str, Any], options: Mapping[str, Any]) -> Runner:
        from .run import load

        return load(folder, manifest, options)


TVM = TvmBackend()

__all__ = ["RUNNER", "TVM", "TvmBackend"]
