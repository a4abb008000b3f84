"""A recipe step by step: size, latency and held-out quality of the program after each pass, on ONNX Runtime and TVM.

Run: ``python benchmarks/all_families.py [--recipe recipes/all.yaml] [--model char-code] [--repeats 50] [--write]``, from the
folder that holds ``recipes/``. Float programs run as ``onnx:float``, the integer program on every target of the recipe; all of
them take turns in one run. ``--quick`` is for a look: fewer repeats, held-out data and steps of training.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import fxpress as fx
import readme
from fxpress.recipe import Recipe
from fxpress.zoo.char_lm import TextEntry
from fxpress_passes.contract import Pass
from fxpress_passes.instruments import Step
from rich.console import Console
from rich.table import Table

HEAD = ("after", "target", "weights", "time", "of the model's", "quality")
FLOAT = "onnx:float"
STEPS = 20
"""Of training, for a look."""
QUICK = 10
"""Repeats, for a look."""


@dataclass
class Kept:
    """An instrument: the program after each pass of the recipe that changed it."""

    wanted: frozenset[str]
    programs: list[tuple[str, fx.Program]] = field(default_factory=list)

    def look(self, step: Step, done: Pass, before: fx.Program, after: fx.Program) -> None:
        if after is not before and (done.name in self.wanted or after.stage == "integer"):
            self.programs.append((done.name, after))


def quality(entry: fx.zoo.Entry, program: fx.Program) -> str:
    """Perplexity of a language model, else top-1."""
    return f"perplexity {entry.perplexity(program.run):.2f}" if isinstance(entry, TextEntry) else f"{entry.evaluate(program.run):.2%}"


def rows(recipe: Recipe, model: str, repeats: int, quick: bool = False) -> tuple[list[tuple[str, ...]], str]:
    """The table, and the notes of its measurement."""
    entry = fx.zoo.load(model)
    if quick:
        entry = replace(entry, held_out=(entry.held_out[0][:16], entry.held_out[1][:16]))
        shorter = [replace(item, steps=STEPS) if isinstance(item, fx.passes.Recover) else item for item in recipe.pipeline.passes]
        recipe = replace(recipe, pipeline=fx.Pipeline(shorter))
    program = fx.capture(entry.model, entry.inputs, dynamic_shapes=entry.dynamic_shapes)
    kept = Kept(frozenset(part.name for item in recipe.pipeline.passes for part in item.parts()) - {"place-quantizers"})
    recipe.pipeline.run(program, calibration=entry.calibration, seed=recipe.seed, instruments=[kept])
    steps = [("the model as it is", program), *kept.programs]
    with tempfile.TemporaryDirectory() as folder:
        made = [
            (what, target, found, fx.lower(found, target, out=Path(folder, str(number), target.replace(":", "-"))))
            for number, (what, found) in enumerate(steps)
            for target in (recipe.targets if found.stage == "integer" else (FLOAT,))
        ]
        table = fx.bench([artifact for *_, artifact in made], inputs=entry.inputs, repeats=repeats, quick=quick)
        judged = {what: quality(entry, found) for what, found in steps}
        cells = []
        for place, (what, target, _, artifact) in enumerate(made):
            ratio = table.ratio(place, 0)
            time = f"{table.rows[place].p50_ms:.2f} ms"
            of = f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]" if place else ""
            name = what if what == steps[0][0] else f"`{what}`"
            cells.append((name, f"`{target}`", f"{artifact.payload_size / 1024:.0f} KiB", time, of, judged[what]))
    return cells, "; ".join(table.notes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/all.yaml"))
    parser.add_argument("--model", default="char-code")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    recipe = Recipe.read(options.recipe)
    found, notes = rows(recipe, options.model, QUICK if options.quick else options.repeats, options.quick)
    table = Table(title=f"{options.model}, {options.recipe}")
    for name in HEAD:
        table.add_column(name, overflow="fold")
    for cells in found:
        table.add_row(*(cell.replace("`", "") for cell in cells))
    Console().print(table)
    print(notes)
    if options.write:
        readme.write("all-families", f"{readme.markdown(HEAD, found)}\n\nHeld-out data; batch 1, {entry_length(options.model)}; {notes}.")


def entry_length(model: str) -> str:
    """The shape of the measured input."""
    return " x ".join(map(str, fx.zoo.load(model).inputs[0].shape[1:]))


if __name__ == "__main__":
    main()
