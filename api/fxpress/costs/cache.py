"""signature ==> seconds that were measured under the same conditions, in one JSON file that several processes may write."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from statistics import fmean, median
from typing import Any

from fxpress_backends.profile import RUNTIME, KernelTime
from fxpress_ir.errors import ArtifactError

FORMAT = 2
KEPT = 64
"""Profiles of one signature, the newest."""


def cache_folder() -> Path:
    """The user's: ``$XDG_CACHE_HOME/fxpress/costs``, or below ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fxpress" / "costs"


@dataclass(frozen=True)
class Times:
    """What was measured.

    Attributes:
        kernels: signature -> mean seconds of its occurrences, one number a profile, oldest first.
        runs: digest of all signatures of a program -> what its runtime took beyond its kernels, one number a profile.
        counts: the same digest -> how many kernels that program has.
    """

    kernels: Mapping[str, Sequence[float]] = field(default_factory=dict)
    runs: Mapping[str, Sequence[float]] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    def knows(self, signatures: Iterable[str]) -> bool:
        return all(signature in self.kernels for signature in signatures)

    def seconds(self, signature: str) -> float:
        """The median of all profiles; of each the mean, so that a sum is what the program took however unlike the occurrences are."""
        return median(self.kernels[signature])

    def runtime(self, signatures: Sequence[str]) -> float:
        """What the runtime takes itself: as measured for these very kernels, or as much a kernel as it takes elsewhere."""
        found = self.runs.get(digest(signatures))
        if found is not None:
            return median(found)
        return len(signatures) * median(median(some) / max(1, self.counts[program]) for program, some in self.runs.items())

    def with_profile(self, kernels: Sequence[KernelTime]) -> Times:
        """These and those of a profile."""
        merged = {signature: list(some) for signature, some in self.kernels.items()}
        signatures, found = [kernel.signature for kernel in kernels if kernel.nodes], defaultdict[str, list[float]](list)
        for kernel in kernels:
            if kernel.nodes:
                found[kernel.signature].append(kernel.seconds)
        for signature, seconds in found.items():
            merged[signature] = [*merged.get(signature, ()), fmean(seconds)][-KEPT:]
        own, program = sum(kernel.seconds for kernel in kernels if kernel.signature == RUNTIME), digest(signatures)
        runs = {**self.runs, program: [*self.runs.get(program, ()), own][-KEPT:]}
        return Times(merged, runs, {**self.counts, program: len(signatures)})


def digest(signatures: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(signatures).encode()).hexdigest()[:16]


class Cache:
    """The file of one set of conditions in a folder; read again only when it changed.

    Raises (when it is read or written):
        ArtifactError: the file is damaged, not of these conditions, or cannot be reached.
    """

    def __init__(self, folder: Path, conditions: Mapping[str, Any]) -> None:
        self._conditions = json.loads(json.dumps(conditions))
        text = json.dumps([FORMAT, self._conditions], sort_keys=True)  # files of other formats are left alone
        card = str(self._conditions["card"]["name"]).replace(":", "-")
        self.path = folder / f"{card}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
        self._read: tuple[tuple[int, int, int], Times] | None = None

    def times(self) -> Times:
        """What was measured so far."""
        with self._reachable():
            return self._times()

    def _times(self) -> Times:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return Times()
        state = (status.st_mtime_ns, status.st_size, status.st_ino)
        if self._read is None or self._read[0] != state:
            self._read = state, self._parsed(self.path.read_bytes())
        return self._read[1]

    def add(self, kernels: Sequence[KernelTime]) -> Times:
        """Add a profile to what the file holds now; returns both."""
        with self._reachable(), self._locked():
            times = self._times().with_profile(kernels)
            self._write(times)
        return times

    def _write(self, times: Times) -> None:
        """Whole or not at all: another file is renamed."""
        data = {
            "format": FORMAT, "conditions": self._conditions, "kernels": times.kernels, "runs": times.runs, "counts": times.counts,
        }  # fmt: skip
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.stem, suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(data, file)
            Path(name).replace(self.path)
        except BaseException:
            with suppress(FileNotFoundError):
                Path(name).unlink()
            raise

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what = f"cannot be read and written: {error.strerror or error}"
            raise ArtifactError(what, where=str(self.path), way_on="pass another folder as cache") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time; the lock ends with the process that holds it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _parsed(self, text: bytes) -> Times:
        try:
            data = json.loads(text)
            if data["format"] != FORMAT or data["conditions"] != self._conditions:
                raise ValueError("it was measured under other conditions")
            kernels, runs = ({str(key): list(map(_seconds, some)) for key, some in data[name].items()} for name in ("kernels", "runs"))
            counts = {str(key): int(count) for key, count in data["counts"].items()}
            if not all([*kernels.values(), *runs.values()]) or counts.keys() != runs.keys():
                raise ValueError("it lacks numbers")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            way_on = "delete it, and costs are measured anew"
            raise ArtifactError(f"no file of measured costs: {str(error)[:80]}", where=str(self.path), way_on=way_on) from error
        return Times(kernels, runs, counts)


def _seconds(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not isfinite(value) or value < 0:
        raise ValueError(f"{value!r} is no time")
    return float(value)
