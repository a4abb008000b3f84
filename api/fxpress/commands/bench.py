"""``fxpress bench``: latency of artifacts, interleaved, and how each stands to the first."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from fxpress_ir import Dimension
from fxpress_ir.errors import BenchError
from rich.console import Console

from .terminal import Json, bars, print_json


def bench(
    folders: Annotated[list[Path], typer.Argument(help="Artifacts; ratios are against the first.")],
    repeats: Annotated[int, typer.Option(min=30, help="Timed runs an artifact.")] = 50,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each.")] = 2,
    processes: Annotated[int, typer.Option(min=1, help="Of each, with equal parts of the runs: below a millisecond they differ.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Size of the first dimension, where it is dynamic.")] = 1,
    rpc: Annotated[str | None, typer.Option(help="TVM's tracker, host:port: measure on a device there.", show_default=False)] = None,
    key: Annotated[str | None, typer.Option(help="Of the device's servers, with --rpc.", show_default=False)] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds for a server to become free.")] = 60.0,
    as_json: Json = False,
) -> None:
    """Measure the latency of artifacts on the same drawn inputs, turn about: each in a process of its own, or on a device over RPC."""
    from fxpress_backends.artifact import load
    from fxpress_backends.bench import bench as measure

    artifacts = [load(folder) for folder in folders]
    specs = artifacts[0].inputs
    first = {spec.shape[0] for spec in specs if spec.shape}
    sizes = {size.name: batch for size in first if isinstance(size, Dimension)}
    if not sizes and first - {batch}:
        shapes = ", ".join(map(str, specs))
        raise BenchError(f"batch {batch} for inputs of a fixed size", where=str(folders[0]), way_on=f"its inputs are {shapes}")
    with bars(as_json) as tell:
        table = measure(
            artifacts,
            repeats=repeats,
            threads=threads,
            processes=processes,
            sizes=sizes,
            rpc=rpc,
            key=key,
            wait=wait,
            progress=None if tell is None else lambda done, total: tell("measuring", done, total),
        )
    if as_json:
        rows = [
            asdict(row) | {"folder": str(folder), "target": artifact.target, "ratio": asdict(table.ratio(place, 0))}
            for place, (row, folder, artifact) in enumerate(zip(table.rows, folders, artifacts, strict=True))
        ]
        print_json({"rows": rows, "batch": batch, "threads": threads, "processes": processes, "notes": table.notes})
    else:
        Console().print(str(table), markup=False, highlight=False, soft_wrap=True)
