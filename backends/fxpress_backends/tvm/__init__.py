"""TVM: integers by a physical plan and TIR kernels of our own, floats by TVM's importer; importing this package does not import TVM."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fxpress_ir import Program
from fxpress_ir.errors import BackendError
from numpy.typing import NDArray

from fxpress_backends.contract import Call, Recorder, Refusal, Runner, Target

from . import cpu, cross, cuda

RUNNER = Path(__file__).with_name("run.cpp")
"""Source of the program that runs a library where there is no Python."""


class TvmBackend:
    """This machine's targets, for float, mixed and integer programs, and those of others, for integer programs.

    Args:
        nibbles: weights of 4 bits stay so until registers wherever a kernel can split them, or nowhere; where it should pay if it is
            None. Tuning decides by time.
    """

    def __init__(self, *, nibbles: bool | None = None) -> None:
        self._nibbles = nibbles

    def targets(self) -> tuple[Target, ...]:
        """The cards; that of ``tvm:native`` describes this machine."""
        offered = cpu.host_features()
        return (cpu.x86_64(), *cpu.levels(offered), cpu.native(offered), *cross.cards(offered), *cuda.cards())

    def legalize(self, program: Program, target: Target) -> tuple[Refusal, ...]:
        from .legalize import refusals

        return refusals(program, target)

    def lower(self, program: Program, target: Target, folder: Path) -> Mapping[str, Any]:
        """Write the shared library; the details name it, LLVM's target, the CPU features it needs and the groups.

        Kernels of ``tvm:native`` leave instructions alone that fail their self-test here; a warning and the details say so.

        Raises:
            BackendError: the program is refused, the target is for a kind of machine that this one cannot compile for, no
                C compiler is found, or TVM cannot compile the floats to what PyTorch computes.
        """
        return self._write(program, target, folder, None)

    def lower_tuned(self, program: Program, target: Target, folder: Path, sizes: Mapping[str, int]) -> Mapping[str, Any]:
        """As `lower`, with the kernels that are fastest when timed now; the table is among the details, under ``tuned``.

        Raises:
            BackendError: as `lower`, and where this machine does not run the target.
        """
        return self._write(program, target, folder, sizes)

    def lower_sparse(self, program: Program, target: Target, folder: Path, sizes: Mapping[str, int] | None) -> Mapping[str, Any]:
        """As `lower`, or `lower_tuned` where there are sizes; weights of integer kernels are stored apart where that is smaller.

        Raises:
            BackendError: as those, and where the program is a float one, whose weights TVM's importer puts into the library.
        """
        if program.stage == "float":
            what = "weights of float programs are part of the library"
            raise BackendError(what, where=target.name, way_on="lower it without sparse storage, or to onnx:float")
        return self._write(program, target, folder, sizes, is_sparse=True)

    def groups(self, program: Program, target: Target, sizes: Mapping[str, int]) -> tuple[tuple[tuple[str, ...], str], ...]:
        from .profile import groups

        return groups(program, target, sizes)

    def owners(self, program: Program, target: Target, calls: Sequence[Call]) -> tuple[tuple[int, ...], ...]:
        from .profile import owners

        return owners(program, target, calls)

    def recorder(self, folder: Path, manifest: Mapping[str, Any], options: Mapping[str, Any], inputs: Sequence[NDArray[Any]]) -> Recorder:
        from .profile import TvmRecorder

        return TvmRecorder(folder, manifest, options, inputs)

    def load(self, folder: Path, manifest: Mapping[str, Any], options: Mapping[str, Any]) -> Runner:
        from .run import load

        return load(folder, manifest, options)

    def _write(
        self, program: Program, target: Target, folder: Path, tune: Mapping[str, int] | None, *, is_sparse: bool = False
    ) -> Mapping[str, Any]:
        from .legalize import broken_rules
        from .lower import write
        from .selftest import proved

        found = broken_rules(program, target)
        if found:
            raise BackendError(found[0].reason, where=f"{target.name}, {found[0].node}", way_on=found[0].way_on)
        target, fallback = proved(target) if program.stage != "float" else (target, "")
        if fallback:
            warnings.warn(f"{target.name}: {fallback}", stacklevel=3)
        details = write(program, target, folder, tune, is_sparse=is_sparse, nibbles=self._nibbles)
        return {**details, **({"fallback": fallback} if fallback else {})}


TVM = TvmBackend()

__all__ = ["RUNNER", "TVM", "TvmBackend"]
