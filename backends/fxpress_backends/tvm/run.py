"""shared library ==> arrays: TVM's virtual machine, on the threads that were asked for."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import tvm
from fxpress_ir.errors import BackendError
from numpy.typing import NDArray
from tvm import relax

from fxpress_backends import apart
from fxpress_backends.contract import Arrays

from .affinity import off_workers
from .cpu import AMX, EMULATED_AMX, TESTED, host_features
from .cross import MACHINES
from .cuda import CUDA, EMULATED, check_device, offer
from .islands import ENTRY

POOL_SIZE = "TVM_NUM_THREADS"
"""Read by TVM when a thread first runs a parallel kernel; TVM's own default is half of the CPUs."""


class TvmRunner:
    """A loaded library.

    Args:
        library: the payload.
        threads: how many run each kernel.
        gpu: kernels run on the first CUDA device; inputs and outputs are copied there and back.
        weights: what the library takes after its inputs.

    Raises:
        BackendError: the library does not load, or the pool of threads is already running with fewer.
    """

    def __init__(self, library: Path, threads: int, gpu: bool = False, weights: Sequence[NDArray[Any]] = ()) -> None:
        self._threads, self._device = threads, tvm.runtime.device(CUDA if gpu else "cpu", 0)
        self._weights = [tvm.runtime.tensor(array, self._device) for array in weights]
        claim_threads(threads)
        try:
            self._machine = machine(library, self._device)
            self._main = self._machine[ENTRY]
        except (RuntimeError, ValueError) as error:
            raise BackendError(f"TVM cannot load {library.name}: {error}", way_on="lower the program again") from error

    def watch(self, instrument: Callable[..., int]) -> None:
        """Have the virtual machine call ``instrument(function, name, before, result, *arguments)`` before and after each call."""
        self._machine.set_instrument(instrument)

    def run(self, inputs: Sequence[NDArray[Any]]) -> Arrays:
        """Execute once."""
        claim_threads(self._threads)
        with off_workers(self._threads):
            given = (tvm.runtime.tensor(value, self._device) for value in inputs)
            return tuple(output.numpy() for output in self._main(*given, *self._weights))


def machine(library: Path, device: Any = None) -> Any:
    """The functions of a library by name; each takes TVM's tensors on the device, this CPU where none is named."""
    os.environ.setdefault(POOL_SIZE, str(logical_cpus()))
    return relax.VirtualMachine(tvm.runtime.load_module(str(library)), device or tvm.cpu())


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


_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18
"""Linux on x86-64: the system call's number, ARCH_REQ_XCOMP_PERM and XFEATURE_XTILEDATA."""


@cache
def ask_for_tiles() -> None:
    """Have the kernel give this process, threads to come included, AMX's tile registers; asked once.

    Raises:
        BackendError: it does not.
    """
    system = ctypes.CDLL(None, use_errno=True)
    if system.syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) != 0:
        why = os.strerror(ctypes.get_errno())
        raise BackendError(f"the kernel gives this process no AMX tiles: {why}", way_on="take tvm:x86-64-vnni, or Linux 5.16 or newer")


def check_instructions(wanted: Sequence[str], where: str) -> None:
    """Hold what kernels count on to its self-test, once a process.

    Raises:
        BackendError: an instruction set that the library uses gives wrong integers on this CPU.
    """
    from .selftest import exact_features

    exact, message = exact_features() if set(wanted) & TESTED else ((), "")
    if message and not set(wanted) & set(host_features()) <= set(exact):
        raise BackendError(message.partition(":")[0], where=where, way_on="lower to tvm:native here, which does without it")


def load(folder: Path, manifest: Mapping[str, Any], options: Mapping[str, Any]) -> TvmRunner:
    """Open the library that the manifest names; the only option is ``threads`` (default: every CPU that the process may use).

    Raises:
        BackendError: an unknown option, another kind of machine than the artifact's, a CPU without its instruction sets, or
            what `TvmRunner` raises.
        ArtifactError: weights that are stored apart are malformed.
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
    gpu = CUDA in wanted
    if gpu:
        check_device(wanted, where)
        offer(folder / Path(manifest["details"]["cubin"]).name, manifest["details"]["cuda_source_sha256"])
    missing = [feature for feature in wanted[: 1 if gpu else None] if feature not in (*host_features(), EMULATED_AMX, EMULATED)]
    if missing:
        raise BackendError(f"this CPU has no {missing[0]}", where=where, way_on=f"take tvm:{here}, or lower to tvm:native here")
    check_instructions(wanted, where)
    if AMX in wanted:
        ask_for_tiles()
    return TvmRunner(folder / Path(manifest["details"]["library"]).name, threads, gpu, weights(folder, manifest))


def weights(folder: Path, manifest: Mapping[str, Any]) -> list[NDArray[Any]]:
    """What the library takes after its inputs.

    Raises:
        ArtifactError: the file that holds it is malformed.
    """
    return list(apart.read(folder, manifest["details"].get("apart", {"tensors": {}})).values())
