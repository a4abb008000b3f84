"""While kernels run the caller is on no worker's CPU; afterwards it has its own CPUs back, whatever happened."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest
from fxpress_backends.tvm import affinity
from fxpress_backends.tvm.affinity import off_workers

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no threads to CPUs")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    affinity._bound.cache_clear()
    yield
    affinity._bound.cache_clear()


@pytest.fixture
def worker() -> Iterator[int]:
    """A thread bound to this process's last CPU, as TVM binds its own; gives the CPU."""
    cpu, started, done = max(os.sched_getaffinity(0)), threading.Event(), threading.Event()

    def work() -> None:
        os.sched_setaffinity(0, {cpu})
        started.set()
        done.wait()

    thread = threading.Thread(target=work)
    thread.start()
    started.wait()
    yield cpu
    done.set()
    thread.join()


def test_the_caller_leaves_the_workers_cpu_and_gets_it_back(worker: int) -> None:
    own = os.sched_getaffinity(0)
    if len(own) < 2:
        pytest.skip("this process has one CPU")
    with off_workers(2):
        assert os.sched_getaffinity(0) == own - {worker}
    assert os.sched_getaffinity(0) == own


def test_an_error_gives_it_back_too(worker: int) -> None:
    own = os.sched_getaffinity(0)
    with pytest.raises(ValueError, match="inside"), off_workers(2):
        raise ValueError("inside")
    assert os.sched_getaffinity(0) == own


def test_one_thread_stays_where_it_is(worker: int) -> None:
    own = os.sched_getaffinity(0)
    with off_workers(1):
        assert os.sched_getaffinity(0) == own


def test_without_bound_threads_nothing_happens() -> None:
    own = os.sched_getaffinity(0)
    with off_workers(3):
        assert os.sched_getaffinity(0) <= own
    assert os.sched_getaffinity(0) == own
