"""whole, pruned by half, recovered: held-out loss of the zoo's models, and how much of what pruning cost distillation gives back.

Run: ``python benchmarks/recovery.py [--models NAME ...] [--steps N] [--write]`` (needs no extra; about five minutes).
"""

from __future__ import annotations

import argparse

import fxpress as fx
import readme
from seeds import SEEDS, Model, Spread

STEPS = {"digits-cnn": 100, "digits-vit": 100, "char-lm": 40}
MOST = 30
"""Batches of images, which are fewer than a thousand; of text every step has its own."""
SPARSE = ("sparsify{sparsity=0.5}", 'sparsify{pattern="2:4"}')
CASES = {
    "digits-cnn": ("prune-channels{ratio=0.5}", *SPARSE),
    "digits-vit": ("prune-channels{ratio=0.5}", "prune-heads{ratio=0.5}", *SPARSE),
    "char-lm": ("prune-channels{ratio=0.5}", "prune-heads{ratio=0.5}", *SPARSE),
}
ASKED = 0.5
"""The least share of the gap to close."""
HEAD = ("model", "pass", "whole", "pruned", "recovered", "gap closed")


def losses(model: Model, text: str, steps: int, seed: int) -> tuple[float, float]:
    """Held-out loss after the pass, batch norms re-estimated, and after distillation; the seed draws data and what is random."""
    (item,) = fx.Pipeline.parse(text).passes
    context = model.context(seed)
    pruned = fx.passes.ReestimateBatchNorm().apply(item.apply(model.program, context), context)
    more = model.context(seed, steps if model.is_text else min(steps, MOST))
    return model.loss(pruned.run), model.loss(fx.passes.Recover(steps=steps).apply(pruned, more).run)


def row(model: Model, text: str, steps: int) -> tuple[tuple[str, ...], float]:
    """The table's row, and the least share of the gap that any seed closes."""
    whole = model.loss(model.program.run)
    found = [losses(model, text, steps, seed) for seed in SEEDS]
    pruned, recovered = (Spread(figures, falls=True) for figures in zip(*found, strict=True))
    closed = Spread(tuple((before - after) / (before - whole) for before, after in found))
    cells = (model.entry.name, f"`{text}`", f"{whole:.3f}", pruned.shown(".3f"), recovered.shown(".3f"), closed.shown(".0%"))
    return cells, min(closed.figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--steps", type=int, default=0, help="of recover; 0 for each model's own")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    rows, shares = [], []
    for name in options.models:
        model = Model.of(name)
        for text in CASES[name]:
            cells, share = row(model, text, options.steps or STEPS[name])
            print(*cells, sep="  ", flush=True)
            rows.append(cells)
            shares.append(share)
    steps = ", ".join(f"{name} {options.steps or STEPS[name]}" for name in options.models)
    words = (
        f"Held-out cross-entropy, mean (least to most) of {len(SEEDS)} seeds, which draw calibration data from training inputs, "
        f"without labels. Pruned: batch norms re-estimated. Recovered: `recover` as it is, steps: {steps}. "
        f"At least {ASKED:.0%} of the gap is closed by every seed in {sum(share >= ASKED for share in shares)} of {len(shares)} rows."
    )
    found = f"{readme.markdown(HEAD, rows)}\n\n{words}"
    print(found)
    if options.write:
        readme.write("recovery", found)


if __name__ == "__main__":
    main()
