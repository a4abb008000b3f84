"""contenders ==> a table of latencies: a process each, turns interleaved A B A B, with pauses between turns."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from fxpress_ir import Dimension, InputSpec
from fxpress_ir.errors import BenchError, InputError
from numpy.typing import NDArray

from .artifact import Artifact, load
from .bench_process import Process
from .bench_worker import INPUTS
from .contract import as_array
from .latency import Ratio, Row, Table

if TYPE_CHECKING:
    from .tvm.remote import Timed

MINIMUM_RUNS, MINIMUM_PAUSE = 30, 0.25
"""Below these a figure is no claim: frequency and caches of the last contender are still felt after shorter pauses."""

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TVM_NUM_THREADS")
"""Environment variables that hold a process to so many threads, whatever its runtime."""


@dataclass(frozen=True)
class Command:
    """A foreign peer that speaks the protocol of `bench_worker`.

    Attributes:
        name: as the table shows it.
        argv: the command line.
        size_bytes: of its model on disk, where known.
    """

    name: str
    argv: Sequence[str]
    size_bytes: int | None = None


Contender = Artifact | Command | str | os.PathLike[str]
Progress = Callable[[int, int], None]


def bench(
    contenders: Sequence[Contender],
    *,
    repeats: int = 50,
    warmup: int = 5,
    pause: float = MINIMUM_PAUSE,
    inputs: Sequence[Any] | None = None,
    sizes: Mapping[str, int] | None = None,
    threads: int = 2,
    seed: int = 0,
    runs_per_turn: int = 5,
    processes: int = 1,
    timeout: float = 600.0,
    quick: bool = False,
    progress: Progress | None = None,
    rpc: str | None = None,
    key: str | None = None,
    wait: float = 60.0,
) -> Table:
    """Measure latency, noise-aware: all contenders stay alive and take turns on the same inputs and thread count.

    With `rpc`, TVM artifacts are measured on another device. Its clock times the virtual machine alone: neither the network
    nor the copies of inputs and outputs. Each artifact's outputs are first held to its conformance vectors there.

    Args:
        contenders: artifacts, their folders, or commands.
        repeats: timed runs of each contender at least (whole turns are made); 30 or more.
        warmup: runs before the first timed one, 1 or more: the first opens the model.
        pause: seconds between turns; 0.25 or more.
        inputs: arrays or tensors; None draws them from `seed` for the first artifact's signature: floats are standard
            normal, 8-bit and 16-bit integers fill their range, wider ones (ids, masks) are 0 or 1.
        sizes: sizes of dynamic dimensions for drawn inputs, by name; their minimum unless given.
        threads: threads of each contender.
        processes: of each contender, one after another with an equal part of the turns: what memory a process happens to get can be
            worth a fifth of a run that takes a millisecond.
        timeout: seconds within which a turn has to answer.
        quick: allow fewer repeats and shorter pauses; the table says so.
        progress: called with the turns done and their total.
        rpc: address of a TVM tracker, ``host:port``: measure on a server of `key` there.
        key: what servers of the wanted device registered themselves by.
        wait: seconds for a server to become free.

    Raises:
        BenchError: fewer runs or shorter pauses than the protocol asks without `quick`; a contender failed, cannot be
            measured over `rpc` or computes something else there; no server is to be had.
        InputError: the inputs do not fit an artifact.
        ArtifactError: a folder is no intact artifact.
    """
    if not contenders or min(repeats, warmup, runs_per_turn, threads, processes) < 1 or pause < 0:
        raise BenchError("nothing to measure", way_on="pass contenders, and positive repeats, warmup, runs_per_turn, processes and threads")
    if not quick and (repeats < MINIMUM_RUNS or pause < MINIMUM_PAUSE):
        message = f"{repeats} runs with pauses of {pause} s are too few for a claim"
        raise BenchError(message, way_on=f"at least {MINIMUM_RUNS} runs and {MINIMUM_PAUSE} s, or quick=True")
    if (rpc is None) != (key is None):
        raise BenchError("rpc and key go together", way_on='rpc="host:port" of a tracker, key="NAME" of its servers')
    opened = [c if isinstance(c, (Artifact, Command)) else load(c) for c in contenders]
    arrays = _inputs(opened, inputs, dict(sizes or {}), seed)
    notes = ["quick: fewer runs or shorter pauses than a claim needs"] if quick else []
    names = _names(opened)
    each = -(-repeats // (runs_per_turn * processes))  # turns of one process
    turns = each * processes
    seconds = np.empty((len(opened), turns, runs_per_turn))
    for first in range(0, turns, each):
        with ExitStack() as stack:
            if rpc is not None and key is not None:
                _check_remote(names, opened)
                from .tvm.remote import Remote  # with it comes TVM

                remote = stack.enter_context(Remote(rpc, key, wait=wait, timeout=timeout, threads=threads))
                opener: Callable[[str, Any], Process | Timed] = partial(remote.open, inputs=arrays or ())
                about = [remote.note]
            else:
                opener, about = partial(_process, stack, arrays, threads, timeout), _notes(threads)
            if first == 0:
                notes = [*about, *notes]
            running = []
            for name, contender in zip(names, opened, strict=True):
                running.append(opener(name, contender))
                running[-1].run(warmup)  # before the next one starts, so that none is disturbed while it opens its model
            for turn in range(first, first + each):
                for position, process in enumerate(running):
                    sleep(pause)
                    seconds[position, turn] = process.run(runs_per_turn)
                    if progress is not None:
                        progress(turn * len(running) + position + 1, turns * len(running))
    return Table(names, seconds, tuple(c.size if isinstance(c, Artifact) else c.size_bytes for c in opened), tuple(notes))


def _names(contenders: Sequence[Artifact | Command]) -> tuple[str, ...]:
    """Unique names; a folder's and its target's for an artifact."""
    names: list[str] = []
    for contender in contenders:
        plain = contender.name if isinstance(contender, Command) else f"{contender.folder.name} ({contender.target})"
        name, count = plain, 1
        while name in names:
            count += 1
            name = f"{plain} #{count}"
        names.append(name)
    return tuple(names)


def _check_remote(names: Sequence[str], contenders: Sequence[Artifact | Command]) -> None:
    """Only TVM's artifacts run on its servers."""
    for name, contender in zip(names, contenders, strict=True):
        if not isinstance(contender, Artifact) or not contender.target.startswith("tvm:"):
            kind = f"of {contender.target}" if isinstance(contender, Artifact) else "a command"
            way_on = "lower the program to tvm:aarch64, or to the target of your board"
            raise BenchError(f"only TVM artifacts are measured over RPC, this one is {kind}", where=f"contender {name!r}", way_on=way_on)


def _process(
    stack: ExitStack, arrays: tuple[NDArray[Any], ...] | None, threads: int, timeout: float, name: str, contender: Artifact | Command
) -> Process:
    """A contender in a process of its own, which ends with `stack`."""
    environment = dict.fromkeys(THREADS, str(threads))
    if arrays is not None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fxpress-bench-")))
        np.savez(folder / "inputs.npz", *arrays)
        environment[INPUTS] = str(folder / "inputs.npz")
    return stack.enter_context(Process(name, _argv(name, contender, threads), environment, timeout))


def _argv(name: str, contender: Artifact | Command, threads: int) -> list[str]:
    if isinstance(contender, Command):
        return list(contender.argv)
    try:
        options = json.dumps({**contender.options, "threads": threads})
    except TypeError as error:
        raise BenchError(
            "its options cannot be handed to a process", where=f"contender {name!r}", way_on="load it with plain options"
        ) from error
    return [sys.executable, "-m", "fxpress_backends.bench_worker", str(contender.folder), options]


def _inputs(
    contenders: Sequence[Artifact | Command], given: Sequence[Any] | None, sizes: Mapping[str, int], seed: int
) -> tuple[NDArray[Any], ...] | None:
    """The arrays of all contenders, held to every artifact's signature; None where only commands run, without inputs."""
    artifacts = [contender for contender in contenders if isinstance(contender, Artifact)]
    if given is None and not artifacts:
        return None
    arrays = tuple(map(as_array, given)) if given is not None else drawn(artifacts[0].inputs, sizes, seed)
    for artifact in artifacts:
        try:
            artifact.check_inputs(arrays)
        except InputError as error:
            raise InputError(error.what, where=f"{artifact.folder.name}, {error.where}", way_on=error.way_on) from error
    return arrays


def drawn(specs: Sequence[InputSpec], sizes: Mapping[str, int], seed: int) -> tuple[NDArray[Any], ...]:
    """An array for each input: floats are standard normal, 8-bit and 16-bit integers fill their range, wider ones are 0 or 1.

    Args:
        sizes: of dynamic dimensions, by name; their minimum unless given.

    Raises:
        BenchError: `sizes` names no dynamic dimension.
    """
    dynamic = {dimension.name: dimension.minimum for spec in specs for dimension in spec.shape if isinstance(dimension, Dimension)}
    for name in sizes.keys() - dynamic.keys():
        raise BenchError(f"no dynamic dimension {name!r}", way_on=f"the inputs are {', '.join(map(str, specs))}")
    dynamic |= sizes
    generator = np.random.default_rng(seed)
    arrays = []
    for spec in specs:
        shape = [dynamic[size.name] if isinstance(size, Dimension) else size for size in spec.shape]
        if spec.dtype.is_floating_point:
            values: NDArray[Any] = generator.standard_normal(shape)
        elif spec.dtype in (torch.int8, torch.uint8, torch.int16):
            limits = torch.iinfo(spec.dtype)
            values = generator.integers(limits.min, limits.max + 1, shape)
        else:
            values = generator.integers(0, 2, shape)
        arrays.append(values.astype(str(spec.dtype).removeprefix("torch.")))
    return tuple(arrays)


def _notes(threads: int) -> list[str]:
    notes = [f"{os.cpu_count()} logical CPUs, {cpu()}; {threads} threads each"]
    load_average = os.getloadavg()[0]
    if load_average > 0.5:
        notes.append(f"the load average was {load_average:.2f} at the start: other work disturbs the figures")
    return notes


def cpu() -> str:
    """The processor's model, as the system names it."""
    information = Path("/proc/cpuinfo")
    for line in information.read_text(encoding="utf-8").splitlines() if information.exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


__all__ = ["Command", "Ratio", "Row", "Table", "bench"]
