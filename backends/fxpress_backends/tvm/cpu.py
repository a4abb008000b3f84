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

from .cross import AARCH64, DOTPROD, MACHINES

VNNI = "avx512-vnni"
VBMI = "avx512-vbmi"
_BASELINE = "x86-64"
_STAGES = ("float", "mixed", "integer")
LEVELS = {
    # x86-64 psABI, table 3.1, in the names of Linux
    "x86-64-v2": "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3",
    "x86-64-v3": "abm avx avx2 bmi1 bmi2 f16c fma movbe xsave",
    "x86-64-v4": "avx512bw avx512cd avx512dq avx512f avx512vl",
    VNNI: "avx512_vnni",
    VBMI: "avx512vbmi",
}
"""What each level adds to the one before it."""
_ATTRIBUTES = {VNNI: "+avx512vnni", VBMI: "+avx512vbmi"}
"""LLVM's names for what is no part of a numbered level."""


def features_of(machine: str, flags: frozenset[str]) -> tuple[str, ...]:
    """The levels that a machine offers, lowest first; ``flags`` are those of /proc/cpuinfo."""
    if machine.lower() == AARCH64:
        return (AARCH64, DOTPROD) if "asimddp" in flags else (AARCH64,)
    if machine.lower() not in ("x86_64", "amd64"):
        return (machine.lower(),)
    offered = [_BASELINE]
    for level, wanted in LEVELS.items():
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


def native(offered: tuple[str, ...]) -> Target:
    """The CPU that offers these features: VNNI dot products over u8 where it has them, else plain loops over s8."""
    if VNNI in offered:
        return Target("tvm:native", "this CPU, AVX512-VNNI dot products", _STAGES, storage="u8+128", features=offered)
    if DOTPROD in offered:
        return Target("tvm:native", "this CPU, dot products of s8", _STAGES, features=offered)
    return Target("tvm:native", "this CPU, plain loops", _STAGES, storage="s8", features=offered)


def llvm_target(target: Target) -> dict[str, Any]:
    """The compiler's target for a card; that of LLVM's default where the machine is none that is known here."""
    if target.features[0] in MACHINES:
        return MACHINES[target.features[0]].llvm_target(target.features)
    levels = [feature for feature in target.features if feature.startswith(_BASELINE)]
    if not levels:
        return {"kind": "llvm"}
    attributes = [flag for feature, flag in _ATTRIBUTES.items() if feature in target.features]
    return {"kind": "llvm", "mcpu": levels[-1], **({"mattr": attributes} if attributes else {})}
