"""parts of plans ==> microseconds of each on this machine: all compiled together, then run in turn on memory of their own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tvm

from fxpress_backends.contract import Target

from .choose import Part
from .cpu import llvm_target
from .kernels import prim_func
from .physical import Buffer
from .run import claim_threads
from .sizes import value

ROUNDS, WARMUP = 25, 3
LEAST_US = 200.0
"""A part that is faster is run as often in each round as fills this, so that the clock and the call count for little."""


def microseconds(parts: Sequence[Part], target: Target, sizes: Mapping[str, int], threads: int) -> dict[str, float]:
    """The first quartile of each part's `rounds` by its signature, which other work disturbs least."""
    return {signature: statistics.quantiles(times, n=4)[0] for signature, times in rounds(parts, target, sizes, threads).items()}


def rounds(
    parts: Sequence[Part], target: Target, sizes: Mapping[str, int], threads: int, count: int | None = None
) -> dict[str, list[float]]:
    """Each part's microseconds in each of `count` rounds (`ROUNDS` unless given) by its signature; equal parts are measured once.

    Args:
        sizes: of the dimensions that stay symbolic.

    Raises:
        BackendError: the pool of threads is running with fewer.
    """
    distinct = {part.signature: part for part in parts}
    if not distinct:
        return {}
    claim_threads(threads)
    functions = {
        f"f{number}_{place}": prim_func(part.plan, group).with_attr("global_symbol", f"f{number}_{place}")
        for number, part in enumerate(distinct.values())
        for place, group in enumerate(part.groups)
    }
    with tvm.transform.PassContext(disabled_pass=["s_tir.CompactBufferAllocation"]):
        compiled = tvm.compile(tvm.IRModule(functions), target=tvm.target.Target(llvm_target(target)))
    calls = {
        signature: _call(part, [compiled[f"f{number}_{place}"] for place in range(len(part.groups))], sizes)
        for number, (signature, part) in enumerate(distinct.items())
    }
    repeats = {}
    for signature, call in calls.items():
        first = min(_timed(call, 1) for _ in range(WARMUP))
        repeats[signature] = max(1, round(LEAST_US / max(first, 0.1)))
    found: dict[str, list[float]] = {signature: [] for signature in calls}
    for _ in range(ROUNDS if count is None else count):
        for signature, call in calls.items():
            found[signature].append(_timed(call, repeats[signature]))
    return found


def _timed(call: Callable[[], None], repeats: int) -> float:
    """Microseconds of one call."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats * 1e6


def _call(part: Part, functions: Sequence[Any], sizes: Mapping[str, int]) -> Callable[[], None]:
    """All of a part's kernels, on arrays drawn once."""
    names = {name for group in part.groups for name in (*group.inputs, group.output)}
    draw = np.random.default_rng(0)
    memory = {name: _drawn(part.plan.buffers[name], sizes, draw) for name in sorted(names)}
    calls = []
    for group, function in zip(part.groups, functions, strict=True):
        constants = [tvm.runtime.tensor(part.plan.constants[name]) for name in group.constants]
        extents = [sizes[name] for name in part.plan.symbols(group)]
        calls.append((function, [*(memory[name] for name in group.inputs), *constants, *extents, memory[group.output]]))

    def run() -> None:
        for function, operands in calls:
            function(*operands)

    return run


def _drawn(buffer: Buffer, sizes: Mapping[str, int], draw: np.random.Generator) -> Any:
    shape = [int(value(size, sizes)) for size in buffer.sizes]
    kind = np.dtype(buffer.dtype)
    if kind.kind in "iu":
        limits = np.iinfo(kind if kind.itemsize <= 2 else np.int16)
        return tvm.runtime.tensor(draw.integers(limits.min, limits.max + 1, shape).astype(kind))
    return tvm.runtime.tensor(draw.standard_normal(shape).astype(kind))
