"""digits-vit and char-lm on held-out data: float, our integers, ours with float softmax and norms, ONNX Runtime's int8.

Run: ``python benchmarks/zoo_transformers.py`` (needs no extra). *float softmax and norms* is the simulated program: every weight and
every activation on its grid, softmax and normalisations computed in floats. The integers' perplexity over its perplexity is
what the integer non-linearities cost.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import fxpress as fx
import readme
from peer_int8 import quantized, runner

NAMES = ("digits-vit", "char-lm")
PIPELINES = {
    "float softmax and norms": "fold-batch-norm, place-quantizers{integer_only=true}",
    "integers": "fold-batch-norm, quantize-dyadic{integer_only=true}",
    "integers, equalized": "fold-batch-norm, equalize, place-quantizers{integer_only=true}, correct-bias, to-integer",
}


def rows(name: str) -> list[tuple[str, ...]]:
    entry = fx.zoo.load(name)
    judge = getattr(entry, "perplexity", entry.evaluate)
    program = fx.capture(entry.model, entry.inputs, dynamic_shapes=entry.dynamic_shapes)
    exact = judge(program.run)
    found = []

    def add(what: str, run: object) -> float:
        value = judge(run)
        change = f"{value / exact - 1:+.2%}" if judge != entry.evaluate else f"{100 * (value - exact):+.2f} points"
        found.append((name, what, f"{value:.4f}" if judge != entry.evaluate else f"{value:.2%}", change))
        print(*found[-1], sep="  ", flush=True)
        return value

    add("float", program.run)
    values = {}
    for what, text in PIPELINES.items():
        result = fx.Pipeline.parse(text).run(program, calibration=entry.calibration)
        values[what] = add(what, result.program.run)
    if judge != entry.evaluate:
        cost = values["integers"] / values["float softmax and norms"] - 1
        print(f"{name}: the integer non-linearities cost {cost:+.3%} of perplexity")
    with tempfile.TemporaryDirectory() as folder:
        floating = fx.lower(program, "onnx:float", out=Path(folder, "float"))
        for what, path in quantized(floating.folder / "model.onnx", entry.calibration, Path(folder)):
            add(what, runner(path))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    found = [row for name in options.models for row in rows(name)]
    if options.write:
        head = ("model", "program", "top-1 or perplexity", "against float")
        readme.write("zoo-transformers", readme.markdown(head, found))


if __name__ == "__main__":
    main()
