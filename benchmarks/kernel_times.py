"""Where a TVM artifact spends its time: the kernels of one run, each with its count and the sum of its medians.

Run: ``python benchmarks/kernel_times.py DIR [--inputs FILE.npz] [--threads 1] [--json] [--each]``. Without inputs those are taken that the
artifact keeps to check itself with, which are small. TVM's virtual machine is asked before and after each call, so that what it does
itself, in calls of a microsecond or two, counts too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import readme

WARMUP = 3


def kernel_times(
    folder: Path, threads: int, inputs: Path | None = None, repeats: int = 30, each: bool = False
) -> list[tuple[str, int, float]]:
    """(kernel, calls, microseconds) with the slowest first; this process's pool of threads becomes as large.

    Args:
        each: one row a call, in order, not one a kernel.
    """
    os.environ["TVM_NUM_THREADS"] = str(threads)
    import fxpress as fx
    import tvm
    from fxpress_backends.tvm.run import claim_threads

    artifact = fx.load(folder, threads=threads)
    given = [tvm.runtime.tensor(value) for value in artifact.check_inputs(_arrays(folder, inputs))]
    machine = tvm.relax.VirtualMachine(tvm.runtime.load_module(str(folder / artifact.manifest["details"]["library"])), tvm.cpu())
    claim_threads(threads)
    times: dict[tuple[int, str], list[float]] = defaultdict(list)
    place, start = 0, 0.0

    def instrument(function: Any, name: str, before: bool, result: Any, *arguments: Any) -> int:
        nonlocal place, start
        if before:
            start = time.perf_counter()
        else:
            times[place, name].append(time.perf_counter() - start)
            place += 1
        return 0

    machine.set_instrument(instrument)
    for _ in range(WARMUP + repeats):
        place = 0
        machine["main"](*given)
    medians = {call: statistics.median(found[WARMUP:]) * 1e6 for call, found in times.items()}
    if each:
        return [(f"{position} {name}", 1, medians[position, name]) for position, name in sorted(medians)]
    rows: dict[str, list[float]] = defaultdict(list)
    for (_, name), median in medians.items():
        rows["the virtual machine" if name.startswith("vm.") else re.sub(r"_?\d+$", "", name)].append(median)
    return sorted(((name, len(found), sum(found)) for name, found in rows.items()), key=lambda row: -row[2])


def _arrays(folder: Path, inputs: Path | None) -> list[Any]:
    import numpy as np
    from safetensors.numpy import load_file

    if inputs is not None:
        with np.load(inputs) as file:
            return [file[name] for name in file.files]
    kept = load_file(folder / "conformance.safetensors")
    return [kept[name] for name in sorted(kept, key=lambda name: name.split(".")[1]) if name.startswith("input.")]


def table(rows: list[tuple[str, int, float]]) -> str:
    """The rows with their shares of the sum."""
    total = sum(time for _, _, time in rows)
    cells = [(name, str(count), f"{time:.1f}", f"{time / total:.1%}") for name, count, time in rows]
    return readme.markdown(("kernel", "calls", "us", "share"), [*cells, ("sum", "", f"{total:.1f}", "")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--inputs", type=Path, help="arrays of one call, in order (npz)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--each", action="store_true", help="one row a call, in order")
    options = parser.parse_args()
    rows = kernel_times(options.folder, options.threads, options.inputs, options.repeats, options.each)
    print(json.dumps(rows) if options.json else table(rows))


if __name__ == "__main__":
    main()
