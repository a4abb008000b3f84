"""Where an artifact spends its time: the kernels of one run, each with its count and the sum of its medians.

Run: ``python benchmarks/kernel_times.py DIR [--inputs FILE.npz] [--threads 1] [--json] [--each]``. Without inputs those are taken that the
artifact keeps to check itself with, which are small. Measured by `fxpress_backends.profile`, in a process of its own. TVM's virtual
machine is asked before and after each call, so that what it does itself, in calls of a microsecond or two, counts too; ONNX Runtime
writes down its kernels alone.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import readme


def kernel_times(
    folder: Path, threads: int, inputs: Path | None = None, repeats: int = 30, each: bool = False
) -> list[tuple[str, int, float]]:
    """(kernel, calls, microseconds) with the slowest first.

    Args:
        each: one row a call, in order, not one a kernel.
    """
    import fxpress as fx
    from fxpress_backends.profile import record

    recorded = record(fx.load(folder), _arrays(folder, inputs), threads=threads, repeats=repeats)
    medians = [(call.name, seconds * 1e6) for call, seconds in zip(recorded.calls, recorded.seconds, strict=True)]
    if each:
        return [(f"{position} {name}", 1, median) for position, (name, median) in enumerate(medians)]
    rows: dict[str, list[float]] = defaultdict(list)
    for name, median in medians:
        rows[_kernel(name)].append(median)
    return sorted(((name, len(found), sum(found)) for name, found in rows.items()), key=lambda row: -row[2])


def _kernel(call: str) -> str:
    """TVM numbers kernels of one kind; ONNX Runtime's calls are named after the program's node, and then the kind."""
    if call.startswith("vm."):
        return "the virtual machine"
    return re.sub(r"(_token)?_?\d+$", "", call.rpartition("/")[2])


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
