"""target ==> program ==> seconds: what passes are given that may not make a program slower."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fxpress_backends.artifact import lower
from fxpress_backends.bench import bench
from fxpress_ir import Program


def latency_on(
    target: str, *, inputs: Sequence[Any] | None = None, sizes: Mapping[str, int] | None = None, repeats: int = 50, threads: int = 2
) -> Callable[[Program], float]:
    """A function that lowers a program and gives the median of its seconds a run, for ``PruneChannels(latency=...)``.

    ``onnx:float`` and the tvm targets take float programs, which pruning is measured on.

    Args:
        target: as of `lower`.
        inputs, sizes, repeats, threads: as of `bench`.

    Raises (when the function is called):
        BackendError: the target is unknown or does not take the program.
        BenchError: fewer repeats than a claim needs.
    """

    def latency(program: Program) -> float:
        with tempfile.TemporaryDirectory() as folder:
            artifact = lower(program, target, out=Path(folder, "model"))
            table = bench([artifact], repeats=repeats, inputs=inputs, sizes=sizes, threads=threads)
        return table.rows[0].p50_ms / 1e3

    return latency
