"""A contender's process, seen from the benchmark: asks for runs, reads seconds, turns every failure into one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Timer
from typing import Any

import numpy as np
from fxpress_ir.errors import BenchError
from numpy.typing import NDArray


class Process:
    """A running contender; a context manager that ends it.

    Raises:
        BenchError: it cannot be started, died, answered an error or nonsense, or not within the timeout.
    """

    def __init__(self, name: str, argv: Sequence[str], environment: Mapping[str, str], timeout: float) -> None:
        self._name, self._timeout, self._late = name, timeout, False
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, **environment},
                text=True,
                start_new_session=True,  # so that what a peer starts ends with it
            )
        except OSError as error:
            self._errors.close()
            raise self._failure(f"cannot be started: {error.strerror or error}") from error

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        self._process.communicate()
        self._errors.close()

    def run(self, count: int) -> NDArray[np.float64]:
        """Seconds of each of `count` runs, shape [count]."""
        answer = self.ask({"cmd": "run", "n": count})
        try:
            seconds = np.asarray(answer["seconds"], np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise self._failure(f"answered {str(answer)[:80]}") from error
        if seconds.shape != (count,) or not (seconds > 0).all():
            raise self._failure(f"{count} runs asked, answered {str(answer)[:80]}")
        return seconds

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a question, both as plain data."""
        watchdog = Timer(self._timeout, self._expire)
        watchdog.start()
        try:
            answer = self._ask(json.dumps(dict(question)))
        finally:
            watchdog.cancel()
        if "error" in answer:
            raise self._failure(str(answer["error"]))
        return answer

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _expire(self) -> None:
        self._late = True
        self._kill()

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._death() from error
        for text in self._process.stdout:
            try:
                answer = json.loads(text)
            except ValueError:
                continue  # what a peer prints before it serves
            if isinstance(answer, dict):
                return answer
        raise self._death()

    def _death(self) -> BenchError:
        status = self._process.wait()
        if self._late:
            return self._failure(f"no answer within {self._timeout:g} s")
        self._errors.seek(0)
        said = [line.strip() for line in self._errors if line.strip()]
        return self._failure(f"ended with status {status}: {said[-1] if said else 'no message'}")

    def _failure(self, what: str) -> BenchError:
        return BenchError(what, where=f"contender {self._name!r}", way_on="run it alone to see more")
