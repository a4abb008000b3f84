"""Zeros in weights by each score, at once and after distillation: held-out accuracy or perplexity of three zoo models, and bytes.

Run: ``python benchmarks/sparsity.py [--write]``. Masks are decided on the zoo's calibration batches. `recover` walks through
training inputs, without labels, for a minute at most; random masks are those of three seeds, shown as least to most.
Byte counts are of weights as bitmask and values; none of it is a claim of speed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import fxpress as fx
import readme
import torch
from fxpress.zoo.char_lm import LENGTH, TextEntry, text
from fxpress.zoo.digits_cnn import digits
from fxpress_ir.analysis.sparsity import stored_bytes
from fxpress_passes.prune.sparsify import SCORED
from torch import Tensor
from torch.nn import functional

NAMES = ("digits-cnn", "digits-vit", "char-lm")
HOWS = {"50 %": {"sparsity": 0.5}, "75 %": {"sparsity": 0.75}, "2:4": {"pattern": "2:4"}}
STEPS = {"digits-cnn": 60, "digits-vit": 60, "char-lm": 30}
SEEDS = (0, 1, 2)
Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class Case:
    """A captured model, its calibration batches and those that it is trained on."""

    entry: fx.zoo.Entry
    program: fx.Program
    training: Sequence[Batch]
    steps: int

    def quality(self, program: fx.Program) -> float:
        """Perplexity of a language model, else the share of right answers."""
        judge = self.entry.perplexity if isinstance(self.entry, TextEntry) else self.entry.evaluate
        return judge(program.run)

    def shown(self, found: Sequence[float]) -> str:
        texts = [f"{figure:.2f}" if isinstance(self.entry, TextEntry) else f"{figure:.1%}" for figure in sorted(found)]
        return texts[0] if len(set(texts)) == 1 else f"{texts[0]} to {texts[-1]}"


def next_byte(outputs: Sequence[Tensor], batch: Batch) -> Tensor:
    """Cross-entropy of the text itself, which a language model's gradients are of."""
    return functional.cross_entropy(outputs[0][:, :-1].flatten(0, 1), batch[0][:, 1:].flatten())


def case(name: str, steps: int) -> Case:
    entry = fx.zoo.load(name)
    program = fx.capture(entry.model, entry.inputs, dynamic_shapes=entry.dynamic_shapes)
    if name != "char-lm":
        return Case(entry, program, [(batch,) for batch in torch.split(digits().train[0], 50)], steps)
    train = text().train
    starts = torch.randint(0, len(train) - LENGTH, (steps * 16,), generator=torch.Generator().manual_seed(2))
    windows = train[starts[:, None] + torch.arange(LENGTH)]
    return Case(entry, program, [(batch,) for batch in torch.split(windows, 16)], steps)


def sparse(tried: Case, score: str, how: dict[str, object], seed: int) -> fx.Program:
    loss = next_byte if isinstance(tried.entry, TextEntry) else None
    item = fx.passes.Sparsify(score=score, loss=loss, **how)
    return fx.Pipeline([item]).run(tried.program, calibration=tried.entry.calibration, seed=seed).program


def recovered(tried: Case, program: fx.Program, seed: int, **options: object) -> fx.Program:
    item = fx.passes.Recover(steps=tried.steps, teacher=tried.program, **options)
    return fx.Pipeline([item]).run(program, calibration=tried.training, seed=seed).program


def cells(tried: Case, score: str, how: dict[str, object], recovering: Sequence[str]) -> tuple[str, ...]:
    """At once, and recovered where anything is."""
    programs = [(sparse(tried, score, how, seed), seed) for seed in (SEEDS if score == "random" else SEEDS[:1])]
    once = tried.shown([tried.quality(program) for program, _ in programs])
    if score not in recovering:
        return (once, "") if recovering else (once,)
    return once, tried.shown([tried.quality(recovered(tried, program, seed)) for program, seed in programs])


def table(name: str, recovering: Sequence[str], steps: int) -> str:
    tried = case(name, steps or STEPS[name])
    rows = []

    def add(label: str, *found: str) -> None:
        rows.append((label, *found))
        print(name, *rows[-1], sep="  ", flush=True)

    for score in SCORED:
        add(f"`{score}`", *(cell for how in HOWS.values() for cell in cells(tried, score, how, recovering)))
    if recovering:
        share = {label: how["sparsity"] for label, how in HOWS.items() if "sparsity" in how}
        gradual = {label: tried.quality(recovered(tried, tried.program, 0, sparsity=value)) for label, value in share.items()}
        add("gradual, by magnitude", *(cell for label in HOWS for cell in ("", tried.shown([gradual[label]]) if label in gradual else "")))
        scratch = [
            tried.quality(recovered(tried, sparse(tried, "magnitude", how, 0), 0, baseline="scratch", statistics="batch"))
            for how in HOWS.values()
        ]
        add("from scratch", *(cell for figure in scratch for cell in ("", tried.shown([figure]))))
    held = [stored_bytes(sparse(tried, "magnitude", how, 0).tensors) / 1024 for how in HOWS.values()]
    dense = tried.program.cost().weight_bytes / 1024
    what = "perplexity" if isinstance(tried.entry, TextEntry) else "top-1"
    trained = f"{tried.steps} steps of `recover`; " if recovering else ""
    words = (
        f"**{name}**, held-out {what}, float {tried.shown([tried.quality(tried.program)])}; {trained}"
        f"weights {dense:.0f} KiB, as bitmasks and values {', '.join(f'{size:.0f}' for size in held)} KiB."
    )
    heads = [head for label in HOWS for head in ((label, "recovered") if recovering else (label,))]
    return f"{words}\n\n{readme.markdown(('score', *heads), rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument(
        "--recover", nargs="*", choices=SCORED, default=list(SCORED), help="scores after which to recover; none for masks alone"
    )
    parser.add_argument("--steps", type=int, default=0, help="of recover; 0 for each model's own")
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    options = parser.parse_args()
    found = "\n\n".join(table(name, options.recover, options.steps) for name in options.models)
    print(found)
    if options.write and "<!-- sparsity -->" in readme.README.read_text():
        readme.write("sparsity", found)
    elif options.write:
        print("README.md has no place called sparsity: nothing was written")


if __name__ == "__main__":
    main()
