"""NVIDIA's GPUs: their cards, what compiles for them on a machine without one, and what opens an artifact on a machine with one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fxpress_ir.errors import BackendError

from fxpress_backends.contract import Target

CUDA = "cuda"
EMULATED = "emulated"
"""In place of `CUDA`: loops for threads, to prove kernels on a CPU with; `emulated` alone has it."""
FAMILY = "tvm:cuda-"
_HOST = "x86-64"
ARCHITECTURES = {
    "sm_75": "Turing: T4",
    "sm_80": "Ampere: A100",
    "sm_86": "Ampere: A10, A40",
    "sm_89": "Ada: L4, L40",
    "sm_90": "Hopper: H100, H200",
    "sm_100": "Blackwell: B200",
    "sm_120": "Blackwell: RTX 50",
}
_COMPILE = "tvm_callback_cuda_compile"


def cards() -> tuple[Target, ...]:
    """One target an architecture; its code runs on GPUs of the same generation, of the same minor number or a later one."""
    return tuple(
        Target(FAMILY + name, f"NVIDIA {gpus}, DP4A", ("integer",), features=(_HOST, CUDA, name), runs_here=_runs(name, device()))
        for name, gpus in ARCHITECTURES.items()
    )


def emulated() -> Target:
    """The same kernels as loops on a CPU, for tests: slow, in no table of targets."""
    return Target(FAMILY + EMULATED, "CUDA kernels as loops, for tests", ("integer",), features=(_HOST, EMULATED))


def has_tensor_cores(target: Target) -> bool:
    """Whether `mma.sync.m16n8k32` of bytes is there: from sm_80 on."""
    name = target.features[-1]
    return EMULATED in target.features or (CUDA in target.features and int(name.removeprefix("sm_")) >= 80)


def architecture(target: Target) -> str | None:
    """``sm_90`` of a card; None where it is no GPU's."""
    return target.features[-1] if CUDA in target.features else None


@cache
def device() -> tuple[int, int] | None:
    """The compute capability of this machine's first GPU as TVM's runtime finds it; None where there is none."""
    if not Path("/dev/nvidiactl").exists() and not Path("/dev/dxg").exists():
        return None  # spares the import of TVM where no driver is
    import tvm

    gpu = tvm.runtime.device(CUDA, 0)
    if not gpu.exist:
        return None
    major, minor = map(int, str(gpu.compute_version).split("."))
    return major, minor


def _runs(name: str, found: tuple[int, int] | None) -> bool:
    number = int(name.removeprefix("sm_"))
    return found is not None and found[0] == number // 10 and found[1] >= number % 10


def check_device(features: Sequence[str], where: str) -> None:
    """Hold an artifact to this machine's GPU.

    Raises:
        BackendError: there is none, or its code is for another one.
    """
    name, found = features[-1], device()
    if found is None:
        way_on = "copy the folder to a machine with a GPU, its driver and nvidia-cuda-runtime; benchmarks/cuda.py runs it"
        raise BackendError("TVM's runtime finds no CUDA device here", where=where, way_on=way_on)
    if not _runs(name, found):
        here = f"sm_{found[0]}{found[1]}"
        raise BackendError(f"its code is for {name}, this GPU is {here}", where=where, way_on=f"lower to {FAMILY}{here}")


def compiler_target(name: str, host: dict[str, Any]) -> Any:
    """TVM's target; limits are those of every GPU since sm_75, so that none need be there to be asked."""
    import tvm

    limits = {"max_threads_per_block": 1024, "max_shared_memory_per_block": 49152, "thread_warp_size": 32, "max_num_threads": 1024}
    return tvm.target.Target({"kind": CUDA, "arch": name, **limits}, host=host)


def source_of(executable: Any) -> str:
    """The CUDA C++ of all kernels of a built module."""
    found = [module.inspect_source() for module in _modules(executable.mod) if module.kind == CUDA]
    if len(found) != 1:
        raise BackendError(f"TVM made {len(found)} CUDA modules, not 1", where="tvm:cuda", way_on="report the program")
    return str(found[0])


def _modules(module: Any) -> Iterator[Any]:
    yield module
    for imported in module.imports:
        yield from _modules(imported)


_CODES: dict[str, bytes] = {}
"""SHA-256 of CUDA source ==> machine code."""


def offer(cubin: Path, source_sha256: str) -> None:
    """Where TVM asks this process for the machine code of a library's CUDA source, give what the program was lowered with.

    Raises:
        BackendError: the machine code cannot be read.
    """
    import tvm_ffi

    try:
        code = cubin.read_bytes()
    except OSError as error:
        raise BackendError(f"{cubin.name} cannot be read: {error.strerror}", where="tvm:cuda", way_on="lower the program again") from error
    if not _CODES:
        other = tvm_ffi.get_global_func(_COMPILE, allow_missing=True)

        def give(source: str) -> bytes:
            known = _CODES.get(hashlib.sha256(source.encode()).hexdigest())
            if known is not None:
                return known
            if other is None:
                raise RuntimeError("no machine code for this CUDA source")
            return bytes(other(source))

        tvm_ffi.register_global_func(_COMPILE, give, override=True)
    _CODES[source_sha256] = code
