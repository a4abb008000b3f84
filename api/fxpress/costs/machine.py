"""this machine, a target's card and a number of threads ==> what measured times are valid for, as plain data."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fxpress_backends.bench import cpu
from fxpress_backends.registry import BACKENDS, Registry, find


def conditions(target_name: str, threads: int, registry: Registry = BACKENDS) -> dict[str, Any]:
    """The card, the processor with its instruction sets, the threads and the versions of what compiles and runs.

    Raises:
        BackendError: the target is unknown.
    """
    entry, card = find(target_name, registry)
    machine = {"cpu": cpu(), "flags": _flags(), "logical_cpus": os.cpu_count(), "system": platform.system(), "kind": platform.machine()}
    versions = {name: version(name) for name in ("fxpress", *entry.distributions)}
    return {"card": {**asdict(card), "stages": list(card.stages), "features": list(card.features)}, "machine": machine,
            "threads": threads, "versions": versions}  # fmt: skip


def _flags() -> str:
    """The instruction sets of the first processor, in one order."""
    information = Path("/proc/cpuinfo")
    for line in information.read_text(encoding="utf-8").splitlines() if information.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return " ".join(sorted(value.split()))
    return ""
