"""The calling thread keeps off the CPUs that TVM bound its workers to, while kernels run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

_TASKS = Path("/proc/self/task")


@contextmanager
def off_workers(threads: int) -> Iterator[None]:
    """TVM binds each worker to a CPU and leaves the thread that calls it free; after a pause Linux often wakes that one on a worker's CPU.

    The two then take turns at every kernel until the load balancer looks, milliseconds later: ResNet-18 takes 3.7 ms on two
    threads, and 2.0 apart. The caller's own CPUs are given back afterwards; nothing happens where none is left, with one
    thread, or without Linux.

    Args:
        threads: how many run each kernel, the caller included.
    """
    if threads < 2 or not hasattr(os, "sched_setaffinity"):
        yield
        return
    own = os.sched_getaffinity(0)
    free = own - _bound(threads)
    if not free or free == own:
        yield
        return
    os.sched_setaffinity(0, free)
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


@cache
def _bound(threads: int) -> frozenset[int]:
    """The CPUs of this process's threads that are bound to a single one, which TVM's workers are; asked when its pool runs."""
    found, allowed = set(), os.sched_getaffinity(0)
    for task in _TASKS.iterdir() if len(allowed) > 1 and _TASKS.is_dir() else ():
        try:
            cpus = os.sched_getaffinity(int(task.name))
        except OSError:  # it has ended
            continue
        if len(cpus) == 1:
            found |= cpus
    return frozenset(found)
