"""shared library ==> arrays: TVM's virtual machine, on the threads that were asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tvm
from fxpress_ir.errors import BackendError
from numpy.typing import NDArray
from tvm import relax

from fxpress_backends.contract import Arrays

from .cpu import host_features
from .cross import MACHINES
from .islands import ENTRY

POOL_SIZE = "TVM_NUM_THREADS"
"""Read by TVM when a thread first runs a parallel kernel; TVM's own default is half of the CPUs."""


class TvmRunner:
    """A loaded library.

    Args:
        library: the payload.
        threads: how many run each kernel.

    Raises:
        BackendError: the library does not load, or the pool of threads is already running with fewer.
    """

    def __init__(self, library: Path, threads: int) -> None:
        self._threads = threads
        claim_threads(threads)
        try:
            self._main = machine(library)[ENTRY]
        except (RuntimeError, ValueError) as error:
            raise BackendError(f"TVM cannot load {library.name}: {error}", way_on="lower the program again") from error

    def run(self, inputs: Sequence[NDArray[Any]]) -> Arrays:
        """Execute once."""
        claim_threads(self._threads)
        return tuple(output.numpy() for output in self._main(*(tvm.runtime.tensor(value) for value in inputs)))


def machine(library: Path) -> Any:
    """The functions of a library by name; each takes TVM's tensors."""
    os.environ.setdefault(POOL_SIZE, str(logical_cpus()))
    return relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())


def logical_cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def claim_threads(threads: int) -> None:
    """Have the calling thread's kernels run on that many threads.

    The pool never grows, so it starts with every CPU (by the environment, TVM's only setting for that) and is told how
    many to use.

    Raises:
        BackendError: the pool is running with fewer.
    """
    os.environ.setdefault(POOL_SIZE, str(logical_cpus()))
    count, configure = (tvm.get_global_func(f"runtime.{name}") for name in ("NumThreads", "config_threadpool"))
    if count() != threads:
        configure(1, threads)
    if count() != threads:
        way_on = f"set {POOL_SIZE}={threads} before the process starts"
        raise BackendError(f"TVM's pool has {count()} threads, not {threads}", way_on=way_on)


def load(folder: Path, manifest: Mapping[str, Any], options: Mapping[str, Any]) -> TvmRunner:
    """Open the library that the manifest names; the only option is ``threads`` (default: every CPU that the process may use).

    Raises:
        BackendError: an unknown option, another kind of machine than the artifact's, a CPU without its instruction sets, or
            what `TvmRunner` raises.
    """
    where = str(manifest.get("target", "tvm"))
    unknown = sorted(options.keys() - {"threads"})
    if unknown:
        raise BackendError(f"unknown option {unknown[0]!r}", where=where, way_on="a TVM artifact takes threads")
    threads = options.get("threads")
    if threads is None:
        threads = int(os.environ.get(POOL_SIZE, logical_cpus()))
    if not isinstance(threads, int) or threads < 1:
        raise BackendError(f"threads is {threads!r}", where=where, way_on="give a positive number")
    wanted, here = manifest["details"]["features"], host_features()[0]
    kind = next((feature for feature in wanted if feature in MACHINES), here)
    if kind != here:
        way_on = "copy the folder to a machine of that kind and run it there, docs/edge.md says how"
        raise BackendError(f"its library is for {kind}, this machine is {here}", where=where, way_on=way_on)
    missing = [feature for feature in wanted if feature not in host_features()]
    if missing:
        raise BackendError(f"this CPU has no {missing[0]}", where=where, way_on=f"take tvm:{here}, or lower to tvm:native here")
    return TvmRunner(folder / Path(manifest["details"]["library"]).name, threads)
