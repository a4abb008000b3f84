"""program, target ==> the time of each of its kernels within a run, and which of its nodes they compute."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import sleep
from typing import Any

import numpy as np
from fxpress_ir import Program
from fxpress_ir.analysis.cost import macs
from fxpress_ir.errors import BackendError
from numpy.typing import NDArray

from .artifact import Artifact, lower
from .bench import MINIMUM_PAUSE, THREADS, drawn
from .bench_process import Process
from .bench_worker import INPUTS
from .contract import Call, Profiled, Target
from .registry import BACKENDS, Registry, find
from .work import sizes_at

RUNTIME = "runtime"
"""Name and signature of what a run takes beyond its kernels: checks, allocations, launches, copies of inputs and outputs."""
TIMEOUT = 600.0
"""Seconds within which a turn has to be done."""
WARMUP, TURN = 5, 5
"""Runs before any counts, and runs in a row of which none is disturbed by the other kind; as in `bench`."""


@dataclass(frozen=True)
class KernelTime:
    """What nodes that are computed together take within a run.

    Attributes:
        name: the runtime's, of the kernels that compute them; empty where it has none.
        nodes: names of the program's nodes; empty for what the runtime does itself.
        signature: equal for kernels that do the same work on memory of the same sizes.
        seconds: median of the runs.
    """

    name: str
    nodes: tuple[str, ...]
    signature: str
    seconds: float


@dataclass(frozen=True)
class Recorded:
    """What runs of an artifact took.

    Attributes:
        calls: of one run, in order.
        seconds: median of each call, without what watching it takes.
        beyond: seconds of a run that are no call's.
    """

    calls: tuple[Call, ...]
    seconds: tuple[float, ...]
    beyond: float


def profile(
    program: Program,
    target_name: str,
    *,
    sizes: Mapping[str, int],
    threads: int,
    repeats: int = 30,
    registry: Registry = BACKENDS,
    artifact: Artifact | None = None,
) -> tuple[KernelTime, ...]:
    """Lower the program, run it in a process of its own, and time every kernel where it stands.

    Groups come in the order of `signatures`, and what the runtime does itself last, so that the sum is the time of a run. A kernel
    that the runtime fused across groups is shared among them by their multiply-accumulates, equally where they have none.

    Args:
        sizes: of dynamic dimensions; their minimum unless given.
        threads: of the runtime.
        repeats: runs that count.
        artifact: the program's on this target, where it is lowered already.

    Raises:
        BackendError: the target is unknown, does not run here, cannot take the program, or its kernels cannot be told apart.
        BenchError: the process failed.
    """
    backend, target = _profiled(target_name, registry, program.stage)
    if not target.runs_here:
        raise BackendError("this machine does not run it", where=f"target {target_name!r}", way_on="profile on a machine of its kind")
    if min(threads, repeats) < 1:
        raise BackendError(f"{threads} threads and {repeats} repeats", where=f"target {target_name!r}", way_on="give positive numbers")
    at = sizes_at(program, sizes, f"target {target_name!r}")
    groups = backend.groups(program, target, at)
    with tempfile.TemporaryDirectory(prefix="fxpress-profile-") as folder:
        lowered = artifact or lower(program, target_name, Path(folder) / "model", registry=registry)
        recorded = record(lowered, drawn(lowered.inputs, at, 0), threads=threads, repeats=repeats)
    weights = _macs(program, [nodes for nodes, _ in groups], at)
    names: list[list[str]] = [[] for _ in groups]
    seconds = [0.0] * len(groups)
    own = recorded.beyond
    for call, taken, owned in zip(recorded.calls, recorded.seconds, backend.owners(program, target, recorded.calls), strict=True):
        total = sum(weights[place] for place in owned)
        own += 0.0 if owned else taken
        for place in owned:
            names[place].append(call.name)
            seconds[place] += taken * (weights[place] / total if total else 1 / len(owned))
    kernels = [
        KernelTime(" + ".join(dict.fromkeys(called)), nodes, signature, time)
        for (nodes, signature), called, time in zip(groups, names, seconds, strict=True)
    ]
    return (*kernels, KernelTime(RUNTIME, (), RUNTIME, own))


def signatures(
    program: Program, target_name: str, sizes: Mapping[str, int], *, registry: Registry = BACKENDS
) -> tuple[tuple[tuple[str, ...], str], ...]:
    """Nodes that are computed together and the signature of what they do, as `profile` gives them; nothing is compiled or run.

    Raises:
        BackendError: as `profile`, but for targets that do not run here.
    """
    backend, target = _profiled(target_name, registry, program.stage)
    return backend.groups(program, target, sizes_at(program, sizes, f"target {target_name!r}"))


def record(artifact: Artifact, inputs: Sequence[NDArray[Any]], *, threads: int, repeats: int) -> Recorded:
    """Time runs of an artifact and, in others, every call, in a process of its own; both take turns, with pauses as in `bench`.

    Raises:
        BackendError: its backend cannot watch its runs.
        BenchError: the process failed.
    """
    _profiled(artifact.target, BACKENDS)
    command = [sys.executable, "-m", "fxpress_backends.profile_worker", str(artifact.folder), json.dumps({"threads": threads})]
    with tempfile.TemporaryDirectory(prefix="fxpress-profile-") as folder:
        np.savez(Path(folder) / "inputs.npz", *inputs)
        environment = {**dict.fromkeys(THREADS, str(threads)), INPUTS: str(Path(folder) / "inputs.npz")}
        with Process(artifact.target, command, environment, TIMEOUT) as process:
            seconds = {kind: list[float]() for kind in ("run", "watch")}
            for kind in seconds:
                process.ask({"cmd": kind, "n": WARMUP})
            for done in range(0, repeats, TURN):
                for kind, found in seconds.items():
                    sleep(MINIMUM_PAUSE)
                    found += process.ask({"cmd": kind, "n": min(TURN, repeats - done)})["seconds"]
            answer = process.ask({"cmd": "calls"})
    calls = [Call(call["name"], tuple(call["seconds"][WARMUP:]), tuple(call["inputs"]), tuple(call["outputs"])) for call in answer["calls"]]
    return settled(calls, seconds["run"], seconds["watch"])


def settled(calls: Sequence[Call], plain: Sequence[float], watched: Sequence[float]) -> Recorded:
    """Times as they are without watching.

    Watching takes as long at each call: not longer than the shortest of them, and so long that all together fit into a run. What is
    left of a plain run is beyond the calls, but never more than what a watched run takes beyond them: where other work stops
    the process now and then, a run is stopped more often than a call, and medians of calls are short of that of runs.

    Args:
        calls: of watched runs.
        plain: seconds of other runs, which nothing watched.
        watched: seconds of the watched ones.
    """
    whole, times = median(plain), np.array([call.seconds for call in calls]).reshape(len(calls), len(watched))
    medians = np.median(times, axis=1)
    watching = max(float(medians.min()), (float(medians.sum()) - whole) / len(calls)) if calls else 0.0
    seconds = np.maximum(0.0, medians - watching)
    beyond = min(whole - float(seconds.sum()), float(np.median(np.asarray(watched) - times.sum(axis=0))))
    return Recorded(tuple(calls), tuple(map(float, seconds)), max(0.0, beyond))


def _profiled(target_name: str, registry: Registry, stage: str | None = None) -> tuple[Profiled, Target]:
    entry, target = find(target_name, registry)
    backend = entry.backend()
    if stage is not None and stage not in target.stages:
        way_on = "`fxpress targets` says what each target takes"
        what = f"takes {' and '.join(target.stages)} programs, this one is {stage}"
        raise BackendError(what, where=f"target {target_name!r}", way_on=way_on)
    if not isinstance(backend, Profiled):
        raise BackendError("has no kernels to time", where=f"target {target_name!r}", way_on="take an onnx or a tvm target")
    return backend, target


def _macs(program: Program, groups: Sequence[Sequence[str]], sizes: Mapping[str, int]) -> list[int]:
    nodes = {node.name: node for node in program.graph.nodes}
    symbols = {symbol: sizes[name] for symbol, name in program.symbols().items()}
    return [sum(macs(nodes[name], symbols) for name in group) for group in groups]
