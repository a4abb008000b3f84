"""What gradual pruning and SquareHead claim, on small models: zeros against a narrow dense net, features against labels alone.

Run: ``python benchmarks/fine_tuning.py [--write]`` (needs no extra; about four minutes).
"""

from __future__ import annotations

import argparse
import math

import fxpress as fx
import readme
import torch
from fxpress.zoo.digits_cnn import DigitsCNN, digits
from fxpress_ir.analysis.sparsity import stored_bytes
from fxpress_passes.recover.distillation import square_head
from fxpress_passes.recover.recover import Recover
from fxpress_passes.recover.roles import roles
from fxpress_passes.recover.trainable import Dense
from fxpress_passes.recover.training import How, Training
from seeds import SEEDS, Batch, Model, Spread, next_byte
from torch import Tensor, nn

ZEROS, WITHIN, STEPS, DENSE_SEEDS = 0.8, 0.01, 150, (0, 1, 2, 3, 4)
"""Of gradual pruning: share, the most that top-1 may fall, steps for both nets, seeds."""
SPARSITY, TEXT_STEPS, RATE = 0.75, 40, 1e-3
"""Of the language model."""
FEATURES = 4
"""Blocks whose results are compared."""


def nonzero(program: fx.Program) -> int:
    """Elements of weights that are not zero."""
    return sum(int((program.tensors[name] != 0).sum()) for name in roles(program).weights)


def narrow(most: int) -> fx.Program:
    """digits-cnn of the largest width whose weights are at most this many, untrained."""
    width = max(width for width in range(1, 33) if sum(layer.weight.numel() for layer in _layers(DigitsCNN(width))) <= most)
    return fx.capture(DigitsCNN(width).eval(), (digits().images[:1],), dynamic_shapes={"x": {0: torch.export.Dim("batch")}})


def _layers(model: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    return [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]


def gradual() -> tuple[str, bool]:
    """80 % zeros grown while training against a dense net of as many weights trained equally long, both by distillation."""
    model = Model.of("digits-cnn")
    whole = model.entry.evaluate(model.program.run)
    sparse: list[float] = []
    dense: list[float] = []
    small: fx.Program | None = None
    for seed in DENSE_SEEDS:
        context = model.context(seed, 31)
        found = Recover(steps=STEPS, sparsity=ZEROS, statistics="batch", rate=2e-3).apply(model.program, context)
        small = small or narrow(nonzero(found))
        other = Recover(steps=STEPS, baseline="scratch", statistics="batch", rate=1e-2).apply(small, context)
        sparse.append(model.entry.evaluate(found.run))
        dense.append(model.entry.evaluate(other.run))
    assert small is not None
    rows = [
        (f"{ZEROS:.0%} zeros, grown in {STEPS} steps", f"{nonzero(found):,}", Spread(tuple(sparse)).shown(".1%")),
        (f"dense, from scratch in {STEPS} steps", f"{nonzero(small):,}", Spread(tuple(dense)).shown(".1%")),
    ]
    held = min(sparse) >= whole - WITHIN and all(a > b for a, b in zip(sparse, dense, strict=True))
    table = readme.markdown(
        (f"digits-cnn, whole {whole:.1%}, {len(DENSE_SEEDS)} seeds", "weights that are not zero", "held-out top-1"), rows
    )
    return table, held


class Labels(Training):
    """Fine-tuning by cross-entropy of the text itself, and by the features of the teacher where some are named."""

    def loss(self, batch: Batch, number: int = 0) -> Tensor:
        values = {name: item.value() for name, item in self._trainables.items()}
        (scores, *_), features = torch.func.functional_call(self._student, values, batch)
        if not features:
            return next_byte([scores], batch)
        with torch.no_grad():
            _, wanted = self._teacher(*batch)
        return next_byte([scores], batch) + square_head(features, wanted)


def by_labels(model: Model, program: fx.Program, data: list[Batch], features: tuple[str, ...] = ()) -> fx.Program:
    """The same loop, optimiser, masks and batches as `recover`, another loss."""
    found = roles(program)
    masks = {name: program.tensors[name] != 0 if name in found.weights else None for name in found.everything}
    items = {name: Dense(program.tensors[name], mask) for name, mask in masks.items()}
    training = Labels(program, model.program, items, (), How(len(data), RATE, features=features))
    for number, batch in enumerate(data):
        training.step(number, batch)
    edit = program.edit()
    edit.tensors.update({name: item.merged() for name, item in items.items()})
    return edit.finish()


def blocks(program: fx.Program) -> tuple[str, ...]:
    """The results of residual blocks: of each pair of additions on the stream the second."""
    width = program.tensors["embedding.weight"].shape[1]
    sums = [node.name for node in program.graph.nodes if str(node.target) == "aten.add.Tensor" and node.meta["val"].dim() == 3]
    found = [name for name in sums if _node(program, name).meta["val"].shape[-1] == width]
    return tuple(found[1::2])


def _node(program: fx.Program, name: str) -> torch.fx.Node:
    return next(node for node in program.graph.nodes if node.name == name)


def features_too() -> tuple[str, bool]:
    """75 % zeros in char-lm, then equally many steps on labels or on the teacher's scores, alone and with its features."""
    model, ways = Model.of("char-lm"), dict[str, list[float]]()
    names = blocks(model.program)
    assert len(names) == FEATURES
    for seed in SEEDS:
        program = fx.passes.Sparsify(score="magnitude", sparsity=SPARSITY).apply(model.program, model.context(seed))
        data = model.drawn(100 + seed, TEXT_STEPS)
        context = model.context(100 + seed, TEXT_STEPS)
        found = {
            "none": program,
            "cross-entropy of the text": by_labels(model, program, data),
            "cross-entropy and features (SquareHead)": by_labels(model, program, data, names),
            "the teacher's scores": Recover(steps=TEXT_STEPS, rate=RATE).apply(program, context),
            "the teacher's scores and features": Recover(steps=TEXT_STEPS, rate=RATE, features=names).apply(program, context),
        }
        for way, one in found.items():
            ways.setdefault(way, []).append(math.exp(model.loss(one.run)))
    spreads = {way: Spread(tuple(figures), falls=True) for way, figures in ways.items()}
    _, labels, features, *_ = ways.values()  # pairs of one seed have the same zeros and batches
    sizes = [size / 1024 for size in (model.program.cost().weight_bytes, stored_bytes(program.tensors))]
    head = f"char-lm, {SPARSITY:.0%} zeros by magnitude, {TEXT_STEPS} steps on"
    table = readme.markdown((head, "held-out perplexity"), [(way, one.shown(".2f")) for way, one in spreads.items()])
    words = f"Whole {math.exp(model.loss(model.program.run)):.2f}; weights {sizes[0]:.0f} KiB, as bitmasks and values {sizes[1]:.0f} KiB."
    return f"{table}\n\n{words}", all(one < other for one, other in zip(features, labels, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    options = parser.parse_args()
    parts = []
    for claim, make in (
        ("within a point, and above dense on every seed", gradual),
        ("features beat labels alone on every seed", features_too),
    ):
        table, held = make()
        parts.append(f"{table}\n\n{claim[0].upper()}{claim[1:]}: {'yes' if held else 'no'}.")
        print(parts[-1], flush=True)
        print()
    if options.write:
        readme.write("fine-tuning", "\n\n".join(parts))


if __name__ == "__main__":
    main()
