"""Weights of 4 bits against 8 on `tvm:native`: bytes, opening, runs; expanded when opened, or split in the kernel's registers.

Run: ``python benchmarks/narrow.py [--repeats 100] [--threads 1] [--write]`` (needs no extra; a CPU with AVX512-VNNI; about five
minutes). Opening is `fx.load`, which hashes every file, and the library's, from a warm page cache, in this process; runs are one
interleaved run of the three, a process each. ``--write`` puts the table between the marks `narrow` of docs/measurements.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fxpress as fx
import numpy as np
import readme
import torch
from fxpress import zoo
from fxpress_backends.artifact import Artifact, lower
from fxpress_backends.registry import Entry
from fxpress_backends.tvm import TVM, TvmBackend
from numpy.typing import NDArray
from torch import nn

SIDE = 4096
OPENED = 9
"""How often each artifact is opened; the median counts."""
HEAD = ("program", "weights", "payload", "of them weights below 8 bits", "opens in", "runs in", "of the time of 8 bits")
TARGET = "tvm:native"


@dataclass(frozen=True)
class Way:
    """How many bits, and whether kernels split them."""

    name: str
    bits: int
    nibbles: bool


WAYS = (
    Way("8 bits", 8, False),
    Way("4 bits, expanded when opened", 4, False),
    Way("4 bits, split in registers", 4, True),
)


@dataclass(frozen=True)
class Case:
    """A program at each number of bits, and the inputs of a run."""

    name: str
    program: Callable[[int], fx.Program]
    inputs: tuple[NDArray[Any], ...]


def linear(rows: int) -> Case:
    """One layer, of rows known when it is lowered."""

    def program(bits: int) -> fx.Program:
        torch.manual_seed(0)
        captured = fx.capture(nn.Linear(SIDE, SIDE, bias=False).eval(), (torch.zeros(max(rows, 2), SIDE)[:rows],))
        return quantized(captured, bits, [(torch.randn(rows, SIDE, generator=torch.Generator().manual_seed(seed)),) for seed in range(2)])

    x = np.random.default_rng(0).standard_normal((rows, SIDE)).astype(np.float32)
    return Case(f"linear {SIDE} x {SIDE}, {rows} row{'s' * (rows > 1)}", program, (x,))


def char_lm(length: int) -> Case:
    """The zoo's decoder, on so many ids."""
    entry = zoo.load("char-lm")

    def program(bits: int) -> fx.Program:
        return quantized(fx.capture(entry.model, entry.inputs, dynamic_shapes=entry.dynamic_shapes), bits, entry.calibration)

    return Case(f"char-lm, {length} id{'s' * (length > 1)}", program, (entry.held_out[0][:1, :length].numpy(),))


def quantized(program: fx.Program, bits: int, calibration: Sequence[tuple[torch.Tensor, ...]]) -> fx.Program:
    """Every layer at so many bits, the first and the last too."""
    pipeline = f"quantize-dyadic{{weight_bits={bits}, edge_bits={bits}, integer_only=true, input_floor=0}}"
    return fx.Pipeline.parse(pipeline).run(program, calibration=calibration).program


def artifacts(case: Case, folder: Path) -> Iterator[Artifact]:
    """One of each way.

    Raises:
        ValueError: a way of the same bits gives other outputs.
    """
    programs, outputs = {bits: case.program(bits) for bits in sorted({way.bits for way in WAYS})}, dict[int, Any]()
    for number, way in enumerate(WAYS):
        entry = Entry("tvm", lambda way=way: TvmBackend(nibbles=way.nibbles), ("apache-tvm",))
        artifact = lower(programs[way.bits], TARGET, folder / str(number), registry=[entry])
        found = artifact.run(*case.inputs)
        check_bits(f"{case.name}, {way.name}", outputs.setdefault(way.bits, found), found)
        yield artifact


def check_bits(what: str, wanted: Sequence[NDArray[Any]], found: Sequence[NDArray[Any]]) -> None:
    """All outputs are equal.

    Raises:
        ValueError: one is not.
    """
    if not all(np.array_equal(one, other) for one, other in zip(wanted, found, strict=True)):
        raise ValueError(f"{what}: other bits")


def narrow_bytes(details: Mapping[str, Any]) -> int:
    """Of the weights below 8 bits."""
    kept = {**details.get("packed", {}), **details.get("apart", {"tensors": {}})["tensors"]}
    return sum(one["bytes"] for one in kept.values() if one["bits"] < 8)


def opening(artifact: Artifact, threads: int) -> float:
    """Milliseconds."""
    times = []
    for _ in range(OPENED):
        start = time.perf_counter()
        again = fx.load(artifact.folder)
        TVM.load(again.folder, again.manifest, {"threads": threads})
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def rows(case: Case, repeats: int, threads: int) -> Iterator[tuple[str, ...]]:
    """One a way."""
    with tempfile.TemporaryDirectory() as folder:
        made = list(artifacts(case, Path(folder)))
        opened = [opening(artifact, threads) for artifact in made]
        table = fx.bench(made, repeats=repeats, threads=threads, inputs=case.inputs)
        for place, (way, artifact) in enumerate(zip(WAYS, made, strict=True)):
            kernels = [group["kernel"] for group in artifact.manifest["details"]["groups"]]
            split = kernels.count("linear_nibbles")
            name = f"{way.name}, in {split} of {sum(kernel.startswith('linear') for kernel in kernels)} linears" if split else way.name
            sizes = f"{artifact.payload_size:,}", f"{narrow_bytes(artifact.manifest['details']):,}"
            times = f"{opened[place]:.1f} ms", f"{table.rows[place].p50_ms:.3f} ms"
            yield case.name, name, *sizes, *times, str(table.ratio(place, 0)) if place else "1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="put the table into docs/measurements.md")
    options = parser.parse_args()
    found = []
    for case in (linear(1), linear(128), char_lm(1), char_lm(128)):
        for row in rows(case, options.repeats, options.threads):
            found.append(row)
            print(*row, sep="  ", flush=True)
    text = readme.markdown(HEAD, found)
    print(text)
    if options.write:
        readme.write("narrow", text)


if __name__ == "__main__":
    main()
