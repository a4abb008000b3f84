"""This machine ==> the instruction sets that artifacts may ask of it, named as x86-64 levels.

Code is compiled for a level (``x86-64-v4``) rather than for a CPU model: an artifact then says exactly what it needs, and
the same program gives the same artifact on every machine of that level.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any

from fxpress_backends.contract import Target

from .cross import AARCH64, DOTPROD, EXTENSIONS, I8MM, MACHINES

AVX2 = "x86-64-v3"
AVX512 = "x86-64-v4"
VNNI = "avx512-vnni"
VBMI = "avx512-vbmi"
AMX = "amx-int8"
EMULATED_AMX = "amx-int8-emulated"
"""In place of `AMX`: C functions of the same meaning, on a CPU without tiles, to prove kernels with; `emulated_amx` alone has it."""
_BASELINE = "x86-64"
_STAGES = ("float", "mixed", "integer")
_SHIFTED = "u8+128"
LEVELS = {
    # x86-64 psABI, table 3.1, in the names of Linux
    "x86-64-v2": "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3",
    AVX2: "abm avx avx2 bmi1 bmi2 f16c fma movbe xsave",
    AVX512: "avx512bw avx512cd avx512dq avx512f avx512vl",
    VNNI: "avx512_vnni",
    VBMI: "avx512vbmi",
    AMX: "amx_tile amx_int8",
}
"""What each level adds to the one before it."""
TESTED = frozenset({AVX2, AVX512, VNNI, VBMI, AMX})
"""Levels that kernels call by instruction, and that are held to a self-test before they are used."""
_ATTRIBUTES = {VNNI: "+avx512vnni", VBMI: "+avx512vbmi", AMX: "+amx-int8"}
"""LLVM's names for what is no part of a numbered level."""


def features_of(machine: str, flags: frozenset[str]) -> tuple[str, ...]:
    """The levels that a machine offers, lowest first; ``flags`` are those of /proc/cpuinfo."""
    kind = {"x86_64": _BASELINE, "amd64": _BASELINE}.get(machine.lower(), machine.lower())
    offered = [kind]
    for level, wanted in {_BASELINE: LEVELS, AARCH64: EXTENSIONS}.get(kind, {}).items():
        if not flags.issuperset(wanted.split()):
            break
        offered.append(level)
    return tuple(offered)


@cache
def host_features() -> tuple[str, ...]:
    """`features_of` this machine; the baseline where the system does not list flags."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return features_of(platform.machine(), frozenset(flags))


def x86_64() -> Target:
    """Baseline x86-64: plain loops over s8, on any such CPU."""
    return Target("tvm:x86-64", "any x86-64 CPU, plain loops", _STAGES, features=(_BASELINE,), runs_here=_BASELINE in host_features())


def levels(offered: tuple[str, ...]) -> tuple[Target, ...]:
    """The fixed levels above the baseline, as seen from the CPU that offers these features: what is lowered on one runs on any other.

    A CPU below a level lowers integer programs for it alone: floats are compared with PyTorch's by running them.
    """
    return (
        _level("tvm:x86-64-avx2", "x86-64 with AVX2 products of 16-bit pairs", AVX2, offered, storage="s8"),
        _level("tvm:x86-64-vnni", "x86-64 with AVX512-VNNI dot products", VNNI, offered),
        _level("tvm:x86-64-amx", "x86-64 with AMX tiles of bytes; proved in emulation, was never timed", AMX, offered),
    )


def _level(name: str, description: str, last: str, offered: tuple[str, ...], storage: str = _SHIFTED) -> Target:
    features = (_BASELINE, *LEVELS)[: list(LEVELS).index(last) + 2]
    here = set(features) <= set(offered)
    return Target(name, description, _STAGES if here else ("integer",), storage=storage, features=features, runs_here=here)


def emulated_amx(offered: tuple[str, ...]) -> Target:
    """Kernels of AMX tiles on a CPU without them, for tests: slow, in no table of targets, never native."""
    below = (_BASELINE, *LEVELS)[: list(LEVELS).index(AMX) + 1]
    here = set(below) <= set(offered)
    name, features = "tvm:x86-64-amx-emulated", (*below, EMULATED_AMX)
    return Target(name, "AMX tiles in C, for tests", ("integer",), storage=_SHIFTED, features=features, runs_here=here)


def native(offered: tuple[str, ...]) -> Target:
    """The CPU that offers these features: AMX tiles or VNNI dot products over u8 where it has them, else what there is over s8."""
    if AMX in offered:
        return Target("tvm:native", "this CPU, AMX tiles", _STAGES, storage=_SHIFTED, features=offered)
    if VNNI in offered:
        return Target("tvm:native", "this CPU, AVX512-VNNI dot products", _STAGES, storage=_SHIFTED, features=offered)
    signed = {
        AVX2: "AVX2 products of 16-bit pairs",
        I8MM: "products of 2x8 bytes",
        DOTPROD: "dot products of s8",
        AARCH64: "widening products of NEON",
    }
    kernels = next((kind for feature, kind in signed.items() if feature in offered), "plain loops")
    return Target("tvm:native", f"this CPU, {kernels}", _STAGES, features=offered)


def llvm_target(target: Target) -> dict[str, Any]:
    """The compiler's target for a card; that of LLVM's default where the machine is none that is known here."""
    if target.features[0] in MACHINES:
        return MACHINES[target.features[0]].llvm_target(target.features)
    levels = [feature for feature in target.features if feature.startswith(_BASELINE)]
    if not levels:
        return {"kind": "llvm"}
    attributes = [flag for feature, flag in _ATTRIBUTES.items() if feature in target.features]
    return {"kind": "llvm", "mcpu": levels[-1], **({"mattr": attributes} if attributes else {})}
