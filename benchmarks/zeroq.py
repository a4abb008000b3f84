"""Calibration without data: distilled inputs (ZeroQ) against real ones and against Gaussian noise, held-out accuracy, 3 seeds.

Run: ``python benchmarks/zeroq.py [--write]`` (no extra; about a minute).
"""

from __future__ import annotations

import argparse

import fxpress as fx
import readme
import torch
from fxpress.quality import sqnr

MODEL = "digits-cnn"
SEEDS = (0, 1, 2)
PIPELINES = {
    "8 bits": "fold-batch-norm, quantize-dyadic{integer_only=true}",
    "4 bits": "fold-batch-norm, quantize-dyadic{weight_bits=4, integer_only=true}",
    "8 bits, ranges by MSE": 'fold-batch-norm, quantize-dyadic{ranges="mse", border_ranges="mse", integer_only=true}',
}
SOURCES = ("real", "distilled", "noise")


def batches(source: str, program: fx.Program, entry: fx.zoo.Entry, seed: int) -> list[tuple[torch.Tensor, ...]]:
    """As many samples of each kind; of real ones the seed draws which."""
    real = torch.cat([batch[0] for batch in entry.calibration])
    generator = torch.Generator().manual_seed(seed)
    if source == "real":
        return [(part,) for part in real[torch.randperm(len(real), generator=generator)[:128]].split(32)]
    if source == "noise":
        return [(torch.randn(32, *real.shape[1:], generator=generator),) for _ in range(4)]
    return fx.distill(program, batches=4, batch_size=32, seed=seed).batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    entry = fx.zoo.load(MODEL)
    program = fx.capture(entry.model, entry.inputs, dynamic_shapes=entry.dynamic_shapes)
    data = {(source, seed): batches(source, program, entry, seed) for source in SOURCES for seed in SEEDS}
    images, rows = entry.held_out[0], []
    scores = program.run(images)[0]
    for what, text in PIPELINES.items():
        cells = [what, f"{entry.evaluate(program.run):.2%}"]
        for source in SOURCES:
            made = [fx.Pipeline.parse(text).run(program, calibration=data[source, seed]).program for seed in SEEDS]
            found, noise = [entry.evaluate(one.run) for one in made], [sqnr(scores, one.run(images)[0]) for one in made]
            cells.append(f"{sum(found) / len(found):.2%} ({min(found):.2%} to {max(found):.2%}), {min(noise):.1f} to {max(noise):.1f} dB")
        rows.append(tuple(cells))
    text = readme.markdown((MODEL, "float", *SOURCES), rows)
    words = f"Held-out top-1, mean and range of {len(SEEDS)} seeds, and SQNR of the scores against the float model's"
    text += f"\n\n{words}; 128 samples to calibrate each."
    print(text)
    if options.write:
        readme.write("zeroq", text)


if __name__ == "__main__":
    main()
