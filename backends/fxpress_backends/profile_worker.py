"""An artifact in a process of its own ==> the times of runs as callers see them, and of each call within others."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from .artifact import load
from .bench_worker import answer, inputs, timed
from .contract import Profiled
from .registry import find


def responder(folder: str, options: dict[str, Any]) -> Callable[[Any], dict[str, Any]]:
    """What answers ``{"cmd": "run" | "watch", "n": 5}`` with ``{"seconds": [...]}`` of whole runs, and ``{"cmd": "calls"}`` with
    ``{"calls": [...]}``, each with its seconds in all runs that were watched."""
    artifact, arrays = load(folder, **options), inputs()
    backend = find(artifact.target)[0].backend()
    assert isinstance(backend, Profiled), artifact.target
    recorder = backend.recorder(artifact.folder, artifact.manifest, artifact.options, artifact.check_inputs(arrays))
    runs: dict[str, Callable[[], object]] = {"run": lambda: artifact.run(*arrays), "watch": recorder.run}

    def respond(question: Any) -> dict[str, Any]:
        if question["cmd"] == "calls":
            return {"calls": [asdict(call) for call in recorder.calls()]}
        return {"seconds": [timed(runs[question["cmd"]]) for _ in range(question["n"])]}

    return respond


if __name__ == "__main__":
    where, settings = sys.argv[1:]
    answer(responder(where, json.loads(settings)))
