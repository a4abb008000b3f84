"""``fxpress demo``: the whole way on the embedded model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .terminal import Json, bars, print_json


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the artifacts.")] = Path("build/demo"),
    repeats: Annotated[int, typer.Option(min=30, help="Timed runs a target.")] = 30,
    as_json: Json = False,
) -> None:
    """Compress digits-cnn, lower it to every target, compare bits on all held-out images, and measure."""
    from ..demo import demo as run_demo

    with bars(as_json) as progress:
        done = run_demo(out, repeats=repeats, progress=progress)
    if as_json:
        print_json(asdict(done) | {"same_bits": done.same_bits})
    else:
        _show(done)
    raise typer.Exit(0 if done.same_bits else 1)


def _show(done: Any) -> None:
    console = Console()
    console.print(done.report, markup=False, highlight=False)
    console.print(
        f"\nproved {done.facts} facts about integer ranges; {done.sqnr:.1f} dB against float scores; {done.saturated:.3%} saturated"
    )
    table = Table(title=f"{done.model}, {done.images} held-out images, at batch {' and '.join(map(str, done.batches))}; latency at batch 1")
    for column in ("target", "top-1", "agree", "flips", "bits", "KiB", "p50 ms", "p90 ms"):
        table.add_column(column, justify="left" if column == "target" else "right", no_wrap=True)
    for row in done.rows:
        quality = row.quality
        bits = "-" if row.same_bits is None else "same" if row.same_bits else "DIFFER"
        shares = (f"{share:.2%}" for share in (quality.accuracy, quality.agreement, quality.negative_flips))
        table.add_row(row.target, *shares, bits, f"{row.bytes / 1024:.0f}", f"{row.p50_ms:.3f}", f"{row.p90_ms:.3f}")
    console.print(table)
    console.print("agree: same class as the float model; flips: right before, wrong now; bits: those of the integer program")
