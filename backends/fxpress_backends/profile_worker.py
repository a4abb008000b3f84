"""An artifact in a process of its own ==> the time of a run as callers see it, and of each call within one."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from .artifact import load
from .bench_worker import answer, inputs, timed
from .contract import Profiled
from .registry import find

WARMUP, TURN = 3, 5
"""Runs before any counts, and runs in a row of which none is disturbed by the other kind; as in `bench`."""


def profiled(folder: str, options: Mapping[str, Any], repeats: int) -> dict[str, Any]:
    """``{"plain": [...], "watched": [...], "calls": [...]}``: seconds of runs, which take turns, and of the calls of watched ones."""
    artifact, arrays = load(folder, **options), inputs()
    backend = find(artifact.target)[0].backend()
    assert isinstance(backend, Profiled), artifact.target
    recorder = backend.recorder(artifact.folder, artifact.manifest, artifact.options, artifact.check_inputs(arrays))
    for _ in range(WARMUP):
        artifact.run(*arrays)
        recorder.run()
    plain, watched = list[float](), list[float]()
    for done in range(0, repeats, TURN):
        count = min(TURN, repeats - done)
        plain += [timed(lambda: artifact.run(*arrays)) for _ in range(count)]
        watched += [timed(recorder.run) for _ in range(count)]
    calls = [asdict(replace(call, seconds=call.seconds[WARMUP:])) for call in recorder.calls()]
    return {"plain": plain, "watched": watched, "calls": calls}


if __name__ == "__main__":
    where, settings = sys.argv[1:]
    answer(lambda question: profiled(where, json.loads(settings), question["n"]))
