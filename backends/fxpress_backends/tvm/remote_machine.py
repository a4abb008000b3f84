"""RPC session ==> what machine the server is, held against what a library was compiled for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fxpress_ir.errors import BenchError

from .cpu import AMX, LEVELS
from .cross import EXTENSIONS, MACHINES
from .cuda import CUDA

_X86_64 = "x86-64"
_QUESTIONS = (
    "target.llvm_get_system_triple",
    "target.llvm_get_system_cpu",
    "tvm.codegen.llvm.GetHostCPUFeatures",
    "ffi.ReprPrint",
)
"""Functions of a server's TVM; the one that pip installs has them."""
_LLVM = {"pni": "sse3", "lahf_lm": "sahf", "abm": "lzcnt", "sse4_1": "sse4.1", "sse4_2": "sse4.2"}
"""Flags of Linux that LLVM calls otherwise, where more than a ``_`` differs."""


@dataclass(frozen=True)
class Machine:
    """What a server says of itself; empty where its TVM has no LLVM to ask.

    Attributes:
        kind: ``x86-64``, ``aarch64``.
        cpu: LLVM's name of the model.
        offered: LLVM's names of what the CPU offers.
    """

    kind: str = ""
    cpu: str = ""
    offered: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.kind} {self.cpu}".strip() or "a machine that it does not name"

    def check(self, features: Sequence[str], where: str) -> None:
        """Hold the features of an artifact to the machine: its kind, then the instruction sets.

        Raises:
            BenchError: it is of another kind, or lacks one; the artifact needs what a server's process does not ask for: AMX
                tiles of the kernel, machine code of a GPU.
        """
        for feature, way_on in ((AMX, "lower it to tvm:x86-64-vnni"), (CUDA, "run benchmarks/cuda.py there")):
            if feature in features:
                raise BenchError(f"artifacts of {feature} are not measured over RPC", where=where, way_on=way_on)
        wanted = next((feature for feature in features if feature in MACHINES or feature == _X86_64), self.kind)
        if self.kind and wanted != self.kind:
            way_on = f"lower it for {self.kind}, or give the key of a server on {wanted}"
            raise BenchError(f"its library is for {wanted}, the server's machine is {self.kind}", where=where, way_on=way_on)
        missing = [feature for feature in features if self.offered and not _in_llvm(feature) <= self.offered]
        if missing:
            raise BenchError(f"the server's CPU, {self.cpu}, has no {missing[0]}", where=where, way_on=f"lower it to tvm:{wanted}")


def described(session: Any) -> Machine:
    """Ask the server of a `tvm.rpc.RPCSession`."""
    try:
        triple, cpu, offered, text = map(session.get_function, _QUESTIONS)
    except AttributeError:
        return Machine()
    kind = triple().partition("-")[0].replace("x86_64", _X86_64)
    return Machine(kind, cpu(), frozenset(re.findall(r'"([^"]+)": \S*True', text(offered()))))


def _in_llvm(feature: str) -> set[str]:
    """LLVM's names of what a feature of a card stands for; none for a kind of machine."""
    if feature in EXTENSIONS:
        return {feature}
    flags = LEVELS.get(feature, "").split()
    return {_LLVM.get(flag, flag.replace("avx512_", "avx512").replace("_", "-")) for flag in flags}
