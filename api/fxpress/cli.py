"""The command line: demo, passes, targets, inspect. Exit codes: 0 ok, 1 a check failed, 2 bad usage or input."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from fxpress_ir.errors import FxpressError
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help=("Compress a PyTorch model, prove the integer program, and run the same bits everywhere."),
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))


@contextmanager
def _bars(quiet: bool) -> Iterator[Any]:
    """A progress bar a label; on stderr, so that output can be piped."""
    if quiet:
        yield None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("starting", total=None)
        yield lambda label, done, total: bars.update(task, description=label, completed=done, total=total)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the artifacts.")] = Path("build/demo"),
    repeats: Annotated[int, typer.Option(min=30, help="Timed runs a target.")] = 30,
    as_json: Json = False,
) -> None:
    """Compress digits-cnn, lower it to every target, compare bits on all held-out images, and measure."""
    from .demo import demo as run_demo

    with _bars(as_json) as progress:
        done = run_demo(out, repeats=repeats, progress=progress)
    if as_json:
        _print_json(asdict(done) | {"same_bits": done.same_bits})
    else:
        _show_demo(done)
    raise typer.Exit(0 if done.same_bits else 1)


def _show_demo(done: Any) -> None:
    console = Console()
    console.print(done.report, markup=False, highlight=False)
    console.print(
        f"\nproved {done.facts} facts about integer ranges; {done.sqnr:.1f} dB against float scores; {done.saturated:.3%} saturated"
    )
    table = Table(title=f"{done.model}, {done.images} held-out images, at batch {' and '.join(map(str, done.batches))}; latency at batch 1")
    for column in ("target", "accuracy", "agreement", "negative flips", "same bits", "size", "p50", "p90"):
        table.add_column(column, justify="left" if column == "target" else "right")
    for row in done.rows:
        quality = row.quality
        bits = "-" if row.same_bits is None else "yes" if row.same_bits else "NO"
        shares = (f"{share:.2%}" for share in (quality.accuracy, quality.agreement, quality.negative_flips))
        table.add_row(row.target, *shares, bits, f"{row.bytes / 1024:.0f} KiB", f"{row.p50_ms:.3f} ms", f"{row.p90_ms:.3f} ms")
    console.print(table)


@app.command()
def passes(as_json: Json = False) -> None:
    """List the passes, their options and what they promise about numbers."""
    from fxpress_passes import PASSES
    from fxpress_passes.contract import options_of

    rows = [
        {
            "name": kind.name,
            "options": options_of(kind),
            "promise": str(kind.promise),
            "takes": list(kind.takes),
            "gives": kind.gives or "the same stage",
            "about": (sys.modules[kind.__module__].__doc__ or "").strip(),
        }
        for kind in PASSES
    ]
    if as_json:
        _print_json(rows)
        return
    table = Table(title="passes, in the usual order", show_lines=True)
    for column in ("name", "what it does", "options", "promise", "stage"):
        table.add_column(column, overflow="fold")
    for row in rows:
        options = "\n".join(f"{name}={json.dumps(value)}" for name, value in row["options"].items())  # type: ignore[attr-defined]
        table.add_row(row["name"], row["about"], options, row["promise"], f"{'/'.join(row['takes'])} -> {row['gives']}")  # type: ignore[arg-type]
    Console().print(table)


@app.command()
def targets(as_json: Json = False) -> None:
    """List the targets and their cards."""
    from fxpress_backends.registry import targets as all_targets

    if as_json:
        _print_json([asdict(target) for target in all_targets()])
        return
    table = Table(title="targets")
    for column in ("name", "what it is", "takes", "8-bit storage", "features"):
        table.add_column(column, overflow="fold")
    for target in all_targets():
        table.add_row(target.name, target.description, ", ".join(target.stages), target.storage, ", ".join(target.features))
    Console().print(table)


@app.command()
def inspect(
    what: Annotated[str, typer.Argument(help="A zoo name or an artifact's folder.")],
    as_json: Json = False,
) -> None:
    """Show a model's graph and cost, or an artifact's manifest and proofs."""
    from .inspection import inspect_artifact, inspect_model

    data, lines = inspect_artifact(Path(what)) if Path(what).exists() else inspect_model(what)
    if as_json:
        _print_json(data)
    else:
        Console().print(lines, markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    """Entry point: an error that a user can cause is one line on stderr and exit code 2."""
    try:
        app()
    except FxpressError as error:
        typer.echo(f"fxpress: {error}", err=True)
        raise SystemExit(2) from error


if __name__ == "__main__":
    main()
