"""Groups measured in place, their sum against the whole, and a pruned program predicted from those that were pruned less.

Run: ``python benchmarks/latency_model.py [--models ...] [--targets ...] [--threads 2] [--rounds 5] [--write]`` (needs the extra
``models``). Random weights of the real architectures, batch 1, 224 x 224 pixels or 128 ids, integers; TVM's kernels untuned. Of each model
three programs: dense, with half of its multiply-accumulates, and with a quarter to two fifths. The first two are profiled, and a latency
model is fitted to their groups; the last is predicted by it from its shapes alone. All three are measured as wholes, by `fx.bench` in
turns, in other processes. Profiles and wholes are repeated in rounds, for processes differ, and the machine from one minute to the next.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Protocol

import fxpress as fx
import readme
import torch
from fxpress.costs import GroupCosts, LatencyModel, MeasuredCosts
from latency_cpu import LENGTH, MODELS
from latency_cpu import _processor as processor

INTEGER = "quantize-dyadic{integer_only=true, input_floor=0}"
TARGETS = ("tvm:native", "onnx:qlinear")
HEAD = ("model", "target", "program", "MACs", "groups", "known", "kernels", "runtime", "sum", "measured", "error")


class Network(Protocol):
    """What is pruned and measured."""

    ids: bool

    def capture(self) -> fx.Program: ...

    def inputs(self, batch: int, seed: int) -> tuple[torch.Tensor]: ...


@dataclass(frozen=True)
class Recipe:
    """Passes that prepare a model, that leave about half of what there is to multiply, and that leave less."""

    prepared: str
    half: str
    least: str


_CHANNELS = "prune-channels{{macs={}, align=32}}"
_CONVOLUTIONS = Recipe("fold-batch-norm", _CHANNELS.format(0.5), _CHANNELS.format(0.25))
RECIPES: Mapping[str, Recipe] = {
    "resnet18": _CONVOLUTIONS,
    "resnet50": _CONVOLUTIONS,
    "vit-s": Recipe("remove-noops", _CHANNELS.format(0.53), "prune-width{ratio=0.5, align=64}, " + _CHANNELS.format(0.53)),
    "minilm-l6": Recipe("remove-noops", _CHANNELS.format(0.53), _CHANNELS.format(0.36)),
}
"""Of what attention multiplies a part always stays."""


@dataclass(frozen=True)
class Options:
    """Rounds of profiles and wholes, and the runs and threads of each."""

    rounds: int
    repeats: int
    threads: int
    quick: bool


@dataclass(frozen=True)
class Variant:
    """An integer program and its share of the dense one's multiply-accumulates."""

    name: str
    program: fx.Program
    macs: float


def variants(network: Network, recipe: Recipe) -> list[Variant]:
    """Dense, half, least."""
    calibration = [network.inputs(2, seed) for seed in range(4)]
    dense, found = fx.Pipeline.parse(recipe.prepared).run(network.capture()).program, list[Variant]()
    sizes = _sizes(network)
    for name, text in (("dense", ""), ("half", recipe.half), ("least", recipe.least)):
        program = fx.Pipeline.parse(text).run(dense, calibration=calibration).program if text else dense
        integer = fx.Pipeline.parse(INTEGER).run(program, calibration=calibration).program
        found.append(Variant(name, integer, program.cost(**sizes).macs / dense.cost(**sizes).macs))
    return found


def rows(name: str, network: Network, programs: Sequence[Variant], target: str, options: Options) -> list[tuple[str, ...]]:
    """One row a program: dense and half as the sum of their groups, the last as the model predicts it."""
    sizes, threads, repeats = _sizes(network), options.threads, options.repeats
    wholes, rounds = list[list[float]](), list[list[GroupCosts]]()
    with tempfile.TemporaryDirectory() as scratch:
        artifacts = [fx.lower(variant.program, target, out=Path(scratch, variant.name)) for variant in programs]
        both = list(zip(programs, artifacts, strict=True))[:-1]
        for number in range(options.rounds):
            # each with a cache of its own, so that it stands beside the wholes of its minute
            measured = MeasuredCosts(target, sizes, threads=threads, cache=Path(scratch, f"costs-{number}"), repeats=repeats)
            for variant, artifact in both:
                measured.measure(variant.program, artifact)
            rounds.append([measured.of(variant.program) for variant, _ in both])
            table = fx.bench(artifacts, repeats=repeats, threads=threads, sizes=sizes, quick=options.quick)
            wholes.append([row.p50_ms for row in table.rows])
            say(table)
    model = LatencyModel.fit(costs for both in rounds for costs in both)
    predicted = model.of(programs[-1].program)
    cells = []
    for place, (variant, whole) in enumerate(zip(programs, zip(*wholes, strict=True), strict=True)):
        found = [predicted] * len(rounds) if variant is programs[-1] else [costs[place] for costs in rounds]
        groups = found[0].groups[:-1]
        known = sum(signature in model.known for _, signature, _ in groups) if variant is programs[-1] else len(groups)
        cells.append((name, f"`{target}`", *_cells(variant, found, known, whole, variant is programs[-1])))
    return cells


def _cells(variant: Variant, rounds: Sequence[GroupCosts], known: int, whole_ms: Sequence[float], predicted: bool) -> tuple[str, ...]:
    """Medians of rounds; of errors, each of a sum beside the whole of its round."""
    what, found = f"{variant.name}, predicted" if predicted else variant.name, rounds[0]
    runtime, total = (median(each) * 1e3 for each in ([costs.groups[-1][2] for costs in rounds], [costs.seconds for costs in rounds]))
    times = (f"{time:.2f} ms" for time in (total - runtime, runtime, total))
    wholes = f"{median(whole_ms):.2f} ms ({min(whole_ms):.2f} to {max(whole_ms):.2f})"
    errors = [costs.seconds * 1e3 / whole - 1 for costs, whole in zip(rounds, whole_ms, strict=True)]
    error = f"{median(errors):+.1%} ({min(errors):+.0%} to {max(errors):+.0%})"
    return (what, f"{variant.macs:.1%}", str(len(found.groups) - 1), str(known), *times, wholes, error)


def _sizes(network: Network) -> dict[str, int]:
    return {"batch": 1, **({"seq": LENGTH} if network.ids else {})}


say = partial(print, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=30, help="runs in each round")
    parser.add_argument("--quick", action="store_true", help="allow fewer repeats than a claim needs")
    parser.add_argument("--write", action="store_true", help="put the table into docs/measurements.md")
    options = parser.parse_args(arguments)
    found, own = [], Options(options.rounds, options.repeats, options.threads, options.quick)
    for name in options.models:
        programs = variants(MODELS[name], RECIPES[name])
        for target in options.targets:
            found += rows(name, MODELS[name], programs, target, own)
            say(readme.markdown(HEAD, found))
    how = f"medians of {options.rounds} rounds of {options.repeats} runs (least to most); errors are of a sum beside the whole of its round"
    text = f"{readme.markdown(HEAD, found)}\n\n{processor()}, {options.threads} threads, batch 1; {how}."
    print(text)
    if options.write:
        readme.write("latency-model", text)


if __name__ == "__main__":
    main()
