"""``fxpress compress``: a model and a recipe ==> artifacts, compared bit for bit, held to the recipe's floors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from fxpress_ir.errors import PipelineError
from rich.console import Console
from rich.table import Table

from .terminal import Json, bars, print_json
from .within import Asked, compress_within, replayed, show, show_json, write_fronts

if TYPE_CHECKING:
    from ..compress import Compressed
    from ..recipe import Recipe


def compress(
    model: Annotated[
        str,
        typer.Argument(
            help="A .pt2 file, a zoo name or package.module:factory. A factory's code is imported and run, from the current folder too."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the artifacts, one below it a target.")],
    recipe: Annotated[Path | None, typer.Option(help="YAML recipe; the options below go before what it says.")] = None,
    pipeline: Annotated[str | None, typer.Option(help="Passes as text, in place of a recipe.")] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="An .npz file, a folder of images, package.module:factory, which is imported and run, or distilled: from batch norms."
        ),
    ] = None,
    calibration_state: Annotated[
        Path | None,
        typer.Option(help="Folder where measurements are kept: an interrupted run goes on there, a second one measures nothing again."),
    ] = None,
    target: Annotated[list[str] | None, typer.Option(help="A target; may be given again. `fxpress targets` lists them.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of everything random in passes.")] = None,
    dump: Annotated[Path | None, typer.Option(help="Folder for the text of the program after each pass.")] = None,
    tune: Annotated[
        str | None,
        typer.Option(
            metavar="SIZES",
            help="Time kernels of tvm:native on this machine and take the fastest, at these sizes of dynamic dimensions: batch=1,seq=128.",
        ),
    ] = None,
    never_slower: Annotated[
        str | None,
        typer.Option(
            metavar="TARGET",
            help="Measure on this target whether pruning, factorising and fusing make the program faster; what does not is not taken.",
        ),
    ] = None,
    sparse: Annotated[bool, typer.Option(help="Store weights with many zeros as bitmasks and values: smaller files, no faster.")] = False,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="In place of a recipe: latency=0.77x or size=0.15x of the float model (timed as onnx:float; bytes of its weights), "
            "latency=1.5ms, size=120kB; one each. Bits, ranks, channels and blocks are chosen, built and measured on the target."
        ),
    ] = None,
    floor: Annotated[
        list[str] | None,
        typer.Option(
            help="With --budget: accuracy=-0.5, the most that may be lost, in points; for models that bring evaluate, as the zoo's do."
        ),
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(
            metavar="SIZES",
            help="With --budget: sizes of dynamic dimensions at which latency is measured, batch=32,seq=128; of one sample unless given.",
        ),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="In place of a recipe: the TARGET.plan.json that --budget wrote; the same again without the search.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compress a model for every target; exit code 1 where bits differ, a budget breaks or a floor is missed."""
    if budget or floor or plan is not None:
        others = {
            "--recipe": recipe,
            "--pipeline": pipeline,
            "--calibration-state": calibration_state,
            "--dump": dump,
            "--tune": tune,
            "--never-slower": never_slower,
            "--sparse": sparse or None,
        }
        asked = Asked(budget or [], floor or [], target or [], calibration, seed, _sizes("--sizes", sizes))
        _without_recipe(model, out, asked, plan, others, as_json)
    if sizes is not None:
        raise PipelineError("--sizes without --budget", where="compress", way_on="give a budget of latency, or leave it out")
    whole = _recipe(recipe, pipeline, calibration, target, seed)
    timed = None if tune is None else _sizes("--tune", tune)
    with bars(as_json) as progress:
        from ..compress import compress as run
        from ..model_source import open_model

        source = open_model(model)
        done = run(
            source,
            whole,
            out,
            state=calibration_state,
            dump=dump,
            tune=timed,
            never_slower=never_slower,
            sparse=sparse,
            progress=progress,
        )
    if as_json:
        lists = {"rows": list(map(asdict, done.rows)), "checks": list(map(asdict, done.checks))}
        data = {"held": done.held, "program_hash": done.program.hash, "facts": done.facts, "measured": done.measured, **lists}
        print_json({**data, "report": str(done.report), "recipe": whole.text()})
    else:
        _show(done)
    raise typer.Exit(0 if done.held else 1)


def _without_recipe(model: str, out: Path, asked: Asked, plan: Path | None, others: Mapping[str, object], as_json: bool) -> NoReturn:
    clash = next((name for name, value in others.items() if value is not None), None)
    if plan is not None and (asked.budgets or asked.floors):
        clash = "--plan"
    if clash is not None:
        beside = "--budget" if asked.budgets else "--floor" if asked.floors else "--plan"
        raise PipelineError(f"{clash} beside {beside}", where="compress", way_on=f"{beside} chooses the passes: leave one out")
    with bars(as_json) as progress:
        if plan is not None:
            folder = replayed(model, out, asked, plan, progress)
        else:
            done = compress_within(model, out, asked, progress)
            written = write_fronts(done)
    if plan is not None:
        print_json({"folder": str(folder)}) if as_json else typer.echo(f"written: {folder}")
        raise typer.Exit(0)
    if as_json:
        show_json(done)
    else:
        show(done, written)
    raise typer.Exit(0 if done.held else 1)


def _sizes(option: str, text: str | None) -> dict[str, int]:
    found = {}
    for part in filter(None, (text or "").split(",")):
        name, _, size = part.partition("=")
        if not name or not size.isdecimal():
            raise PipelineError(f"{option} {text!r} is no list of sizes", where="compress", way_on="write it so: batch=1,seq=128")
        found[name.strip()] = int(size)
    return found


def _recipe(path: Path | None, text: str | None, calibration: str | None, targets: list[str] | None, seed: int | None) -> Recipe:
    from fxpress_passes.pipeline import Pipeline

    from ..data import Data
    from ..recipe import Recipe

    if (path is None) == (text is None):
        given = "both a recipe and a pipeline" if path else "neither a recipe nor a pipeline"
        raise PipelineError(given, where="compress", way_on="give --recipe FILE, or --pipeline TEXT")
    recipe = Recipe(Pipeline.parse(text)) if text is not None else Recipe.read(path or "")
    if calibration is not None:
        data = Data(calibration) if recipe.data is None else replace(recipe.data, source=calibration)
        recipe = replace(recipe, data=data, base=Path())
    return replace(recipe, targets=tuple(targets or recipe.targets), seed=recipe.seed if seed is None else seed)


def _show(done: Compressed) -> None:
    console = Console()
    console.print(str(done.report), markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"\nproved {done.facts} facts about integer ranges; {', '.join(f'{name} {value:.4g}' for name, value in done.measured.items())}"
    )
    table = Table()
    for column in ("target", "program", "same bits", "moved by", "size", "folder"):
        table.add_column(column, justify="left" if column in ("target", "program", "folder") else "right", overflow="fold")
    for row in done.rows:
        bits = "-" if row.same_bits is None else "yes" if row.same_bits else "NO"
        moved = "not run here" if row.relative is None else f"{row.relative:.2g}"
        table.add_row(row.target, row.stage, bits, moved, f"{row.bytes / 1024:.1f} KiB", row.folder)
    console.print(table)
    for check in done.checks:
        relation = "at least" if check.name == "sqnr_db" else "at most"
        line = f"{check.name} {check.measured:.4g}, {relation} {check.asked:.4g} asked"
        console.print(f"{'kept' if check.held else 'MISSED'}: {line}", markup=False, highlight=False)
