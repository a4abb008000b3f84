"""Zeros in weights by each score, against magnitude and chance: held-out accuracy or perplexity of three zoo models, and bytes.

Run: ``python benchmarks/sparsity.py [--models NAME ...] [--write]`` (needs no extra; about three minutes). Nothing is trained:
`recovery.py` and `fine_tuning.py` do that. Byte counts are of weights as bitmask and values; none of it is a claim of speed.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Mapping

import fxpress as fx
import readme
import torch
from fxpress_ir.analysis.sparsity import stored_bytes
from fxpress_passes.prune.sparsify import SCORED
from seeds import SEEDS, Model, Spread, next_byte

NAMES = ("digits-cnn", "digits-vit", "char-lm")
HOWS: Mapping[str, Mapping[str, object]] = {"50 %": {"sparsity": 0.5}, "75 %": {"sparsity": 0.75}, "2:4": {"pattern": "2:4"}}
BASES = ("magnitude", "random")
DATA = tuple(score for score in SCORED if score not in BASES)
"""Scores that look at data."""
VERDICTS = ("better", "tie", "worse")


def sparse(model: Model, score: str, how: Mapping[str, object], seed: int, **options: object) -> fx.Program:
    """With zeros decided on data that the seed draws."""
    item = fx.passes.Sparsify(score=score, loss=next_byte if model.is_text else None, **how, **options)
    return item.apply(model.program, model.context(seed))


def quality(model: Model, program: fx.Program) -> float:
    """Perplexity of a language model, else the share of right answers."""
    return math.exp(model.loss(program.run)) if model.is_text else model.entry.evaluate(program.run)


def spread(model: Model, score: str, how: Mapping[str, object]) -> Spread:
    seeds = SEEDS[:1] if score == "magnitude" else SEEDS
    return Spread(tuple(quality(model, sparse(model, score, how, seed)) for seed in seeds), falls=model.is_text)


def same_masks(model: Model, how: Mapping[str, object]) -> bool:
    """GBLM without gradients is Wanda, bit for bit."""
    pairs = [[sparse(model, "gblm", how, seed, alpha=0.0), sparse(model, "wanda", how, seed)] for seed in SEEDS]
    return all(torch.equal(gblm.tensors[name], wanda.tensors[name]) for gblm, wanda in pairs for name in model.program.tensors)


def table(model: Model, verdicts: Mapping[str, Counter[tuple[str, str]]]) -> str:
    form = ".2f" if model.is_text else ".1%"
    found = {score: {label: spread(model, score, how) for label, how in HOWS.items()} for score in SCORED}
    rows = [(f"`{base}`", *(found[base][label].shown(form) for label in HOWS)) for base in BASES]
    for score in DATA:
        cells = []
        for label in HOWS:
            against = {base: found[score][label].against(found[base][label]) for base in BASES}
            verdicts[score].update(against.items())
            cells.append(f"{found[score][label].shown(form)} {' / '.join(against.values())}")
        rows.append((f"`{score}`", *cells))
    held = [stored_bytes(sparse(model, "magnitude", how, 0).tensors) / 1024 for how in HOWS.values()]
    equal = all(same_masks(model, how) for how in HOWS.values())
    words = (
        f"**{model.entry.name}**, held-out {'perplexity' if model.is_text else 'top-1'}, float {quality(model, model.program):{form}}; "
        f"weights {model.program.cost().weight_bytes / 1024:.0f} KiB, as bitmasks and values "
        f"{', '.join(f'{size:.0f}' for size in held)} KiB; `gblm{{alpha=0}}` zeroes {'exactly what' if equal else 'NOT what'} `wanda` does."
    )
    return f"{words}\n\n{readme.markdown(('score', *HOWS), rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    options = parser.parse_args()
    verdicts: dict[str, Counter[tuple[str, str]]] = {score: Counter() for score in DATA}
    parts = []
    for name in options.models:
        parts.append(table(Model.of(name), verdicts))
        print(parts[-1], flush=True)
    counts = [(f"`{score}`", *(" / ".join(str(verdicts[score][base, name]) for name in VERDICTS) for base in BASES)) for score in DATA]
    parts.append(readme.markdown((f"cells: {' / '.join(VERDICTS)}", *(f"against {base}" for base in BASES)), counts))
    parts.append(
        f"Mean (least to most) of {len(SEEDS)} seeds, which draw calibration data from training inputs; nothing is trained. Behind a "
        "score: against magnitude / against random, tie where the intervals meet."
    )
    print("\n\n".join(parts[-2:]))
    if options.write:
        readme.write("sparsity", "\n\n".join(parts))


if __name__ == "__main__":
    main()
