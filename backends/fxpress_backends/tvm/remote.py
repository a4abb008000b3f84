"""TVM artifacts ==> seconds of each run on another device: uploaded, held to the reference's bits there, timed there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

import numpy as np
import tvm
from fxpress_ir.errors import BenchError
from numpy.typing import NDArray
from tvm import relax

from fxpress_backends.artifact import Artifact
from fxpress_backends.conformance import compared, vectors

from . import tracker
from .islands import ENTRY
from .remote_machine import described
from .run import POOL_SIZE, weights

_T = TypeVar("_T")


class Remote:
    """A session with one RPC server, which runs all artifacts in one process; a context manager that ends it.

    Args:
        address, key, wait: as `tracker.session` takes them.
        timeout: seconds within which the server has to answer each question.
        threads: that run each kernel there.

    Raises:
        BenchError: there is no session to be had, or the server's pool has another number of threads.
    """

    def __init__(self, address: str, key: str, *, wait: float, timeout: float, threads: int) -> None:
        self._where, self._timeout, self._silent = f"server of key {key!r}", timeout, False
        self._session = self._answer(lambda: tracker.session(address, key, wait), within=wait + timeout)
        try:
            self._machine = self._answer(lambda: described(self._session))
            found = self._answer(lambda: _claimed(self._session, threads))
            if found != threads:
                way_on = f"start it with {POOL_SIZE}={threads} in its environment"
                raise BenchError(f"its pool has {found} threads, not {threads}", where=self._where, way_on=way_on)
        except BenchError:
            self.close()
            raise
        self.note = f"measured on {self._machine}, {self._where} of {address}; {threads} threads each, one process for all"
        self._opened = 0

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the server to others."""
        if not self._silent:
            with suppress(BenchError):  # a server that is gone needs no farewell
                self._answer(lambda: self._session.get_function("CloseRPCConnection")())

    def open(self, name: str, artifact: Artifact, inputs: Sequence[NDArray[Any]]) -> Timed:
        """Upload an artifact's library and weights, run its conformance vectors there, and set the inputs that are timed.

        Args:
            name: of the contender, for errors.

        Raises:
            BenchError: it is for another machine, does not load, or computes other outputs than the reference.
            ArtifactError: its conformance record, or the file of weights beside its library, is malformed.
        """
        where, details = f"contender {name!r}", artifact.manifest["details"]
        self._machine.check(details["features"], where)
        library = artifact.folder / Path(details["library"]).name
        self._opened += 1
        uploaded = f"{self._opened}-{library.name}"  # the system's loader takes two libraries of one path for the same

        def opened() -> Any:
            self._session.upload(str(library), uploaded)
            return relax.VirtualMachine(self._session.load_module(uploaded), self._session.cpu())

        apart = weights(artifact.folder, artifact.manifest)
        timed = Timed(self._answer(opened, where), self._session.cpu(), lambda call: self._answer(call, where), apart)
        given, wanted, rtol = vectors(artifact.folder, artifact.manifest)
        timed.take(given)
        found = timed.outputs()
        if len(found) != len(wanted):
            raise BenchError(f"{len(found)} outputs there, {len(wanted)} expected", where=where, way_on="lower the program again")
        for (output, expected), value in zip(wanted.items(), found, strict=True):
            held, seen = compared(expected, value, rtol)
            if not held:
                way_on = "the same TVM has to run there as lowered it: compare tvm.__version__"
                raise BenchError(f"{output} is wrong on the remote: {seen}", where=where, way_on=way_on)
        timed.take(inputs)
        return timed

    def _answer(self, call: Callable[[], _T], where: str = "", within: float | None = None) -> _T:
        """What `call` returns, unless the server is silent for longer than `timeout`."""
        limit = self._timeout if within is None else within
        box: SimpleQueue[tuple[_T | None, Exception | None]] = SimpleQueue()

        def work() -> None:
            try:
                box.put((call(), None))
            except Exception as error:
                box.put((None, error))

        thread = Thread(target=work, daemon=True)  # a call that never returns must not keep the process
        thread.start()
        thread.join(limit)
        if thread.is_alive():
            self._silent = True
            raise BenchError(f"no answer within {limit:g} s", where=where or self._where, way_on="see that the server still runs")
        result, error = box.get()
        if isinstance(error, BenchError):
            raise error
        if error is not None:
            raise BenchError(tracker.said(error), where=where or self._where, way_on="the server's own output says more") from error
        return result  # type: ignore[return-value]


def _claimed(session: Any, threads: int) -> int:
    """Ask for so many threads; returns how many there are, fewer where the pool started with fewer."""
    count, configure = (session.get_function(f"runtime.{name}") for name in ("NumThreads", "config_threadpool"))
    configure(1, threads)
    return int(count())


class Timed:
    """An artifact on the remote, with inputs in place.

    Args:
        machine: its virtual machine.
        device: the remote one.
        answer: calls within the time allowed.
        apart: weights that the library does not hold; they are sent once.
    """

    def __init__(self, machine: Any, device: Any, answer: Callable[[Callable[[], Any]], Any], apart: Sequence[NDArray[Any]] = ()) -> None:
        self._machine, self._device, self._answer = machine, device, answer
        self._apart = self._answer(lambda: [tvm.runtime.tensor(array, device) for array in apart])

    def take(self, inputs: Sequence[NDArray[Any]]) -> None:
        """Send the inputs; later runs read them where they are."""

        def sent() -> None:
            self._machine.set_input(ENTRY, *(tvm.runtime.tensor(value, self._device) for value in inputs), *self._apart)

        self._answer(sent)

    def outputs(self) -> tuple[NDArray[Any], ...]:
        """Run once and fetch what comes out."""

        def fetched() -> tuple[NDArray[Any], ...]:
            self._machine.invoke_stateful(ENTRY)
            found = self._machine.get_outputs(ENTRY)
            return tuple(value.numpy() for value in (found if isinstance(found, (tuple, list)) else [found]))

        return tuple(self._answer(fetched))

    def run(self, count: int) -> NDArray[np.float64]:
        """Seconds of each of `count` runs by the device's clock, after one that is not counted; shape [count]."""

        def measured() -> Any:
            evaluator = self._machine.module.time_evaluator("invoke_stateful", self._device, number=1, repeat=count)
            return evaluator(ENTRY).results

        return np.asarray(self._answer(measured), np.float64)
