"""ResNet-50 and ViT-S pruned to half of their MACs beside the dense ones: latency ratios from one interleaved run a target.

Run: ``python benchmarks/pruned_latency.py [--models ...] [--targets ...] [--repeats 50] [--write]`` (needs the extra ``models``).
Random weights of the real architectures, batch 1, 224 x 224 pixels. Float on ``onnx:float``; integers on ``onnx:qlinear`` and on
``tvm:native``, tuned. Every configuration that a recipe emits on its way is measured, so that each is seen beside its parent. With
``--guard`` passes are held to a measurement on the same target while they prune: what is not found faster is not taken.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import fxpress as fx
import readme
from fxpress_backends.latency import Table
from fxpress_passes.latency import Latency
from latency_cpu import MODELS, Model
from latency_cpu import _processor as processor

HALF, WITHIN = 0.5, 0.01
"""Of the dense program's MACs, and how far from it what is called half may be, as a share of it."""
INTEGER = "quantize-dyadic{integer_only=true, input_floor=0}"
FLOAT = ("onnx:float",)
TARGETS = (*FLOAT, "onnx:qlinear", "tvm:native")
HEAD = ("model", "configuration", "MACs", "parameters", "target", "p50", "dense / this [95 %]", "parent / this [95 %]")


@dataclass(frozen=True)
class Recipe:
    """What a model is pruned by.

    Attributes:
        model: its name in `latency_cpu`.
        prepared: passes before; their result is what counts as dense.
        steps: passes in order. The last one takes channels until half of the dense program's MACs are left. Widths are multiples of 32
            at least: an int8 tile and a cache line are 64 numbers wide, a register of floats 16; a width that fills the last one
            half costs as much as one that fills it.
    """

    model: str
    prepared: str
    steps: tuple[str, ...]


LAST = "prune-channels{{macs={left}, align=32}}"
RECIPES: Mapping[str, Recipe] = {
    "resnet50": Recipe("resnet50", "fold-batch-norm", (LAST,)),
    "vit-s": Recipe("vit-s", "remove-noops", ("prune-blocks{{ratio=0.5}}", LAST)),
    "vit-s, every layer": Recipe("vit-s", "remove-noops", ("prune-width{{ratio=0.333, align=64}}", "prune-heads{{ratio=0.333}}", LAST)),
}
"""What a kernel's call costs beside its arithmetic halves with the layers, not with their widths: some tenth of a ViT-S of integers."""


@dataclass(frozen=True)
class Configuration:
    """A float program, what it was made by, and its shares of the dense one's MACs and parameters."""

    name: str
    program: fx.Program
    macs: float
    parameters: float


def configurations(name: str, latency: Latency | None = None) -> list[Configuration]:
    """The dense program and what each step of its recipe emits; one that a guard kept as it was is left out.

    Raises:
        ValueError: without a guard, the last one has not half of the MACs.
    """
    recipe = RECIPES[name]
    model = MODELS[recipe.model]
    data = [model.inputs(2, seed) for seed in range(2)]
    dense = fx.Pipeline.parse(recipe.prepared).run(model.capture()).program
    whole, found = dense.cost(), [Configuration("dense", dense, 1.0, 1.0)]
    for step in recipe.steps:
        text = step.format(left=f"{HALF / found[-1].macs:.4f}")
        result = fx.Pipeline.parse(text).run(found[-1].program, calibration=data, latency=latency)
        cost = result.program.cost()
        if result.report.steps[-1].fired:
            found.append(Configuration(f"`{text}`", result.program, cost.macs / whole.macs, cost.parameters / whole.parameters))
        else:
            say(f"{name}: {text} was not taken: {result.report}")
    if latency is None and abs(found[-1].macs / HALF - 1) > WITHIN:
        raise ValueError(f"{name}: {found[-1].macs:.1%} of the MACs are left, not half")
    return found


def deployed(program: fx.Program, target: str, model: Model, folder: Path) -> fx.Artifact:
    """The artifact of a float program, or of its integers."""
    if target not in FLOAT:
        program = fx.Pipeline.parse(INTEGER).run(program, calibration=[model.inputs(2, seed) for seed in range(4)]).program
    return fx.lower(program, target, out=folder, tune={"batch": 1} if target == "tvm:native" else None)


def rows(name: str, target: str, repeats: int, threads: int, guard: bool, quick: bool = False) -> list[tuple[str, ...]]:
    """One row a configuration: those of a model on a target, measured in turns."""
    model, latency = MODELS[RECIPES[name].model], None
    if guard:
        integers = None if target in FLOAT else fx.Pipeline.parse(INTEGER)
        latency = fx.latency_on(target, sizes={"batch": 1}, threads=threads, pipeline=integers)
    found = configurations(name, latency)
    with tempfile.TemporaryDirectory() as scratch:
        artifacts = [deployed(one.program, target, model, Path(scratch, str(place))) for place, one in enumerate(found)]
        table = fx.bench(artifacts, repeats=repeats, threads=threads, inputs=model.inputs(1, 99), quick=quick)
    say(table)
    cells = []
    for place, (one, row) in enumerate(zip(found, table.rows, strict=True)):
        ratios = ["", ""] if place == 0 else [_ratio(table, of, place) for of in (0, place - 1)]
        cells.append((name, one.name, f"{one.macs:.1%}", f"{one.parameters:.1%}", f"`{target}`", f"{row.p50_ms:.2f} ms", *ratios))
    return cells


def _ratio(table: Table, of: int, place: int) -> str:
    found = table.ratio(of, place)
    return f"{found.median:.2f} [{found.low:.2f}, {found.high:.2f}]"


say = partial(print, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--guard", action="store_true", help="take no step that is not measured faster on the target")
    parser.add_argument("--quick", action="store_true", help="allow fewer repeats than a claim needs")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args(arguments)
    found = []
    for name in options.models:
        for target in options.targets:
            found += rows(name, target, options.repeats, options.threads, options.guard, options.quick)
            say(readme.markdown(HEAD, found))
    words = f"{processor()}, {options.threads} threads, batch 1; medians of {options.repeats} runs in turns."
    text = f"{readme.markdown(HEAD, found)}\n\n{words}"
    print(text)
    if options.write:
        readme.write("pruned-latency", text)


if __name__ == "__main__":
    main()
