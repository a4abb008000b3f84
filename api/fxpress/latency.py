"""target ==> programs ==> seconds, or the ratio of two measured in turns: what passes are given that may not make a program slower."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fxpress_backends.artifact import Artifact, lower
from fxpress_backends.bench import bench
from fxpress_ir import Program
from fxpress_passes.evidence import Calibration
from fxpress_passes.latency import TimeRatio
from fxpress_passes.pipeline import Pipeline

from .data import drawn

DRAWN = 4
"""Batches, where `latency_on` is given none."""


class TargetLatency:
    """What `latency_on` gives, for ``Pipeline.run(latency=...)`` and ``PruneChannels(latency=...)``: an `Interleaved`."""

    def __init__(self, target: str, pipeline: Pipeline, calibration: Calibration | None, **options: Any) -> None:
        self._target, self._pipeline, self._calibration, self._options = target, pipeline, calibration, options
        self._parent: tuple[str, Artifact] | None = None

    def __call__(self, program: Program) -> float:
        """The median of a program's seconds a run."""
        with tempfile.TemporaryDirectory() as folder:
            return bench([self._lowered(program, folder)], **self._options).rows[0].p50_ms / 1e3

    def ratio(self, program: Program, parent: Program) -> TimeRatio:
        """The time of `program` over that of `parent`, from one interleaved run."""
        with tempfile.TemporaryDirectory() as folder:
            found = bench([self._lowered(program, folder), self._of_parent(parent)], **self._options).ratio(0, 1)
        return TimeRatio(found.median, found.low, found.high)

    def _of_parent(self, parent: Program) -> Artifact:
        """Lowered once: a search compares many programs with one."""
        if self._parent is None or self._parent[0] != parent.hash:
            folder = tempfile.mkdtemp() if self._parent is None else str(self._parent[1].folder.parent)
            if self._parent is None:
                weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self._parent = parent.hash, self._lowered(parent, folder)
        return self._parent[1]

    def _lowered(self, program: Program, folder: str) -> Artifact:
        if self._pipeline.passes and program.stage == "float":
            data = self._calibration or [drawn(program, seed) for seed in range(DRAWN)]
            program = self._pipeline.run(program, data).program
        return lower(program, self._target, out=Path(folder, "model"))


def latency_on(
    target: str,
    *,
    inputs: Sequence[Any] | None = None,
    sizes: Mapping[str, int] | None = None,
    repeats: int = 50,
    threads: int = 2,
    pipeline: Pipeline | None = None,
    calibration: Iterable[Any] | Calibration | None = None,
) -> TargetLatency:
    """A function that lowers a program and gives the median of its seconds a run; its ``ratio`` compares two programs in turns.

    ``onnx:float`` and the tvm targets take float programs as pruning gives them; for integers name the passes that make them.

    Args:
        target: as of `lower`.
        inputs, sizes, repeats, threads: as of `bench`.
        pipeline: passes that a float program goes through before it is lowered, ``fold-batch-norm, quantize-dyadic``; None for none.
        calibration: of `pipeline`; None for batches that are drawn, since kernels take as long on any data.

    Raises (when something is measured):
        BackendError: the target is unknown or does not take the program.
        BenchError: fewer repeats than a claim needs.
        CalibrationError: `calibration` does not fit the program.
    """
    data = calibration if calibration is None or isinstance(calibration, Calibration) else Calibration(calibration)
    options = {"inputs": inputs, "sizes": sizes, "repeats": repeats, "threads": threads}
    return TargetLatency(target, pipeline or Pipeline([]), data, **options)
