"""Layers with and without software prefetch: the time with it over the time without, interleaved, with its interval.

Run: ``python benchmarks/prefetch.py [--models resnet50 bert-base] [--target tvm:x86-64-vnni] [--threads 1] [--rounds 60]`` (needs the
extra ``models``). Random weights of the real architectures, batch 1, 128 ids; of BERT one layer, as all are alike. Each distinct layer is
run again and again, so that what it reads lies in the caches that hold it; *in sequence* are all layers of the model one after the other,
each of which finds the caches as the others left them. The columns are the settings ``steps+tiles`` that the tuner tries: how many steps
ahead weights are asked for, and whether the next tile's inputs are.
"""

from __future__ import annotations

import argparse
from functools import partial

import fxpress as fx
import numpy as np
import readme
from fxpress_backends.contract import Target
from fxpress_backends.latency import Table
from fxpress_backends.tvm import TVM
from fxpress_backends.tvm.alternatives import PREFETCHES, prefetches, with_prefetch
from fxpress_backends.tvm.choose import Part
from fxpress_backends.tvm.physical import Plan
from fxpress_backends.tvm.plan import plan
from fxpress_backends.tvm.timing import rounds
from latency_cpu import LENGTH, MODELS, PIPELINE, Model
from real_models import bert

SIZES = {"batch": 1, "seq": LENGTH}
LAYERS = {**MODELS, "bert-base": Model(partial(bert, layers=1), transformer=True, ids=True)}
TURNS = 20
HEAD = ("layer", "count", "without", *(f"{steps}+{tiles}, of that [95 %]" for steps, tiles in PREFETCHES))


def integer_program(model: Model) -> fx.Program:
    calibration = [model.inputs(1, seed) for seed in range(1, 3)]
    return fx.Pipeline.parse(PIPELINE).run(model.capture(), calibration=calibration).program


def alternatives(whole: Plan) -> list[tuple[str, int, list[Part]]]:
    """Name, count and alternatives of each distinct layer, and of all in sequence."""
    found: dict[str, tuple[str, int, list[Part]]] = {}
    layers = [group for group in whole.groups if prefetches(whole, group)]
    for group in layers:
        part = Part(whole, (group,))
        some = [part, *(Part(whole, (with_prefetch(group, *ahead),)) for ahead in PREFETCHES)]
        _, count, _ = found.get(part.signature, ("", 0, []))
        found[part.signature] = (f"{group.output}: {part}", count + 1, some)
    sequences = [layers, *([with_prefetch(each, *ahead) for each in layers] for ahead in PREFETCHES)]
    return [*found.values(), ("in sequence", len(layers), [Part(whole, tuple(each)) for each in sequences])]


def measure(whole: Plan, target: Target, threads: int, count: int) -> list[tuple[str, ...]]:
    """A row a distinct layer."""
    rows = []
    every = alternatives(whole)
    times = rounds([part for *_, some in every for part in some], target, SIZES, threads, count)
    for name, layers, some in every:
        seconds = np.array([times[part.signature] for part in some]).reshape(len(some), min(TURNS, count), -1) * 1e-6
        table = Table(tuple(map(str, range(len(some)))), seconds, (None,) * len(some))
        ratios = [str(table.ratio(place, 0)) for place in range(1, len(some))]
        rows.append((name, str(layers), f"{table.rows[0].p50_ms * 1e3:.1f} us", *ratios))
    return rows


def main() -> None:
    cards = {card.name: card for card in TVM.targets() if card.runs_here}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=LAYERS, default=["resnet50", "bert-base"])
    parser.add_argument("--target", choices=cards, default="tvm:native")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60, help=f"a multiple of {TURNS}, in as many turns; or fewer")
    options = parser.parse_args()
    if options.rounds > TURNS and options.rounds % TURNS:
        parser.error(f"--rounds {options.rounds} is no multiple of {TURNS}")
    for name in options.models:
        whole = plan(integer_program(LAYERS[name]), cards[options.target])
        rows = measure(whole, cards[options.target], options.threads, options.rounds)
        print(f"{name}, {options.target}, {options.threads} threads\n\n{readme.markdown(HEAD, rows)}", flush=True)


if __name__ == "__main__":
    main()
