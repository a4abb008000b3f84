"""Fronts of bits: for each model the best allocations over a sweep of the weights' size, as pictures for docs/.

Run: ``python benchmarks/pareto.py [--models ...] [--out docs]`` (extras plots, minilm; a few minutes). Losses are those that
`allocate-bits` predicts on calibration data, not held-out ones; those are in docs/measurements.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import fxpress as fx
from fxpress.joint import prepared
from fxpress_passes import AllocateBits
from fxpress_passes.allocate import front, picture
from fxpress_passes.contract import Context
from fxpress_passes.evidence import Calibration, Evidence

MODELS = {"digits-cnn": "divergence", "digits-vit": "divergence", "char-lm": "divergence", "minilm-l6": "squares"}
CHOICES = ("w8", "w6", "w5", "w4", "w3", "w2")
AVERAGE = 4.0


def draw(name: str, loss: str, out: Path) -> Path:
    """The picture of one model, with the answer at four bits in the mean marked."""
    entry = fx.zoo.load(name)
    data = Calibration(entry.calibration)
    program = prepared(fx.capture(entry.model, entry.inputs, dynamic_shapes=entry.dynamic_shapes), data)
    item = AllocateBits(average=AVERAGE, choices=CHOICES, loss=loss, rounds=0)
    context = Context(Evidence(data))
    problem = item.problem(program, context)
    swept = front(problem, "size", points=16)
    print(f"{name}\n{swept}\n")
    title = f"{name}: bits of weights by layer"
    return picture(swept, out / f"pareto-{name}.svg", chosen=item.decide(program, context), title=title)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs")
    options = parser.parse_args()
    for name in options.models:
        print(f"written: {draw(name, MODELS[name], options.out)}")


if __name__ == "__main__":
    main()
