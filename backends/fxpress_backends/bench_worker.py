"""One contender in a process of its own: JSON lines in, seconds out.

The protocol, for peers that are not artifacts: on standard input comes ``{"cmd": "run", "n": 5}``; after `n` runs, one
after another, standard output takes ``{"seconds": [...]}``, the wall time of each run, or ``{"error": "one line"}``. At the
end of the input the process leaves. A peer in Python is five lines::

    from fxpress_backends.bench_worker import inputs, serve

    session = open_the_runtime()
    arrays = inputs()
    serve(lambda: session.run(arrays))

A run is done when it returns: wait for a device before that. The thread count is in ``OMP_NUM_THREADS``. This module
imports only NumPy, so that a peer measures its own imports.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import cache
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

INPUTS = "FXPRESS_BENCH_INPUTS"
"""Environment variable: the ``.npz`` file with the inputs that every contender gets, named ``arr_0``, ``arr_1``, ..."""


def inputs() -> tuple[NDArray[Any], ...]:
    """The benchmark's inputs, in the signature's order."""
    with np.load(os.environ[INPUTS], allow_pickle=False) as file:
        return tuple(file[f"arr_{position}"] for position in range(len(file.files)))


def serve(run: Callable[[], object]) -> None:
    """Answer the protocol until the input ends; an exception of `run` is answered as an error, then raised."""
    answer(lambda question: {"seconds": [timed(run) for _ in range(question["n"])]})


def answer(respond: Callable[[Any], dict[str, Any]]) -> None:
    """Answer each line with what `respond` makes of it; an exception is answered as an error, then raised."""
    # what a runtime prints must not mix with the answers: they keep a copy of standard output, which becomes standard error
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as channel:
        os.dup2(2, 1)
        for line in sys.stdin:
            try:
                found = respond(json.loads(line))
            except Exception as error:
                _say(channel, {"error": f"{type(error).__name__}: {error}"})
                raise
            _say(channel, found)


def timed(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = perf_counter()
    run()
    return perf_counter() - start


def _say(channel: Any, answer: dict[str, Any]) -> None:
    channel.write(json.dumps(answer) + "\n")
    channel.flush()


def main(folder: str, options: str) -> None:
    """Serve the artifact in `folder`, opened with `options` (JSON)."""
    from .artifact import Artifact, load

    @cache
    def artifact() -> Artifact:
        return load(folder, **json.loads(options))

    arrays = inputs()
    serve(lambda: artifact().run(*arrays))  # opened by the first run, a warm-up, so that a failure is answered like any other


if __name__ == "__main__":
    main(*sys.argv[1:])
