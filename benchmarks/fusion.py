"""Integer programs with parallel layers fused and apart: the time of the first over the second's, interleaved, with its interval.

Run: ``python benchmarks/fusion.py [--models ...] [--targets ...] [--threads 2]`` (needs the extra ``models``). Random weights of the real
architectures, batch 1, 128 ids. *All fused* has every group of parallel layers that ``fuse-parallel-integer`` finds computed at once:
queries, keys and values of attention, gate and up of gated layers. *Kept* are the groups of those kinds that the pass keeps when it
measures on the target (``measure=fx.latency_on(target)``): where the 95 % interval of the fused program's time is not below that of the
program without them, they stay apart. `tvm:native` is tuned. All programs are run on the same ids first and have to give the same bits.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import fxpress as fx
import numpy as np
import readme
import torch
from fxpress_backends.latency import Table
from real_models import bert, llama
from torch import nn

PIPELINE = "fold-batch-norm, quantize-dyadic{integer_only=true, input_floor=0}"
TARGETS = ("onnx:qlinear", "onnx:int", "tvm:native")
LENGTH = 128
MODELS: dict[str, Callable[[], nn.Module]] = {
    "minilm-l6": partial(bert, hidden=384, layers=6),
    "bert-base": bert,
    "llama, 4 gated layers": llama,
}
HEAD = ("model", "target", "apart", "all fused", "all fused / apart [95 %]", "kept", "kept / apart [95 %]")


def ids(batch: int, seed: int) -> tuple[torch.Tensor]:
    return (torch.randint(0, 30000, (batch, LENGTH), generator=torch.Generator().manual_seed(seed)),)


@dataclass(frozen=True)
class Protocol:
    """How often, and with how many threads."""

    repeats: int
    threads: int


def integer_program(name: str) -> fx.Program:
    shapes = {"input_ids": {0: fx.Dim("batch"), 1: fx.Dim("seq", max=LENGTH)}}
    program = fx.capture(MODELS[name](), ids(1, 0), dynamic_shapes=shapes)
    return fx.Pipeline.parse(PIPELINE).run(program, calibration=[ids(2, seed) for seed in range(4)]).program


def groups(program: fx.Program) -> int:
    return sum(node.name.endswith("_acc_joined") for node in program.graph.nodes)


def row(name: str, target: str, apart: fx.Program, protocol: Protocol) -> tuple[str, ...]:
    x = ids(1, 99)
    measure = fx.latency_on(target, inputs=x, repeats=protocol.repeats, threads=protocol.threads)
    fused, kept = (fx.Pipeline([fx.passes.FuseParallelInteger(measure=asked)]).run(apart).program for asked in (None, measure))
    programs = list({program.hash: program for program in (apart, fused, kept)}.values())
    places = [[program.hash for program in programs].index(program.hash) for program in (apart, fused, kept)]
    tune = {"batch": 1, "seq": LENGTH} if target == "tvm:native" else None
    with tempfile.TemporaryDirectory() as folder:
        artifacts = [fx.lower(program, target, out=Path(folder, str(place)), tune=tune) for place, program in enumerate(programs)]
        check_bits(f"{name} on {target}", [artifact.run(*x)[0] for artifact in artifacts])
        table = fx.bench(artifacts, repeats=protocol.repeats, threads=protocol.threads, inputs=x)
    times = [f"{table.rows[place].p50_ms:.2f} ms" for place in places[:2]]
    ratios = ["1" if place == places[0] else _interval(table, place) for place in places[1:]]
    return name, f"`{target}`", *times, ratios[0], f"{groups(kept)} of {groups(fused)}", ratios[1]


def check_bits(what: str, outputs: Sequence[Any]) -> None:
    """All outputs are equal.

    Raises:
        ValueError: one is not.
    """
    if not all(np.array_equal(outputs[0], other) for other in outputs):
        raise ValueError(f"{what}: fused, it gives other bits")


def _interval(table: Table, place: int) -> str:
    ratio = table.ratio(place, 0)
    return f"{ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    rows = []
    for name in options.models:
        apart = integer_program(name)
        for target in options.targets:
            rows.append(row(name, target, apart, Protocol(options.repeats, options.threads)))
            print(*rows[-1], sep="  ", flush=True)
    text = readme.markdown(HEAD, rows)
    print(text)
    if options.write:
        readme.write("fusion", text)


if __name__ == "__main__":
    main()
