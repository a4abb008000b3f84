"""Structured pruning of the zoo's models, each score against magnitude and chance: held-out quality without training.

Run: ``python benchmarks/pruning.py [--recover STEPS] [--write]``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import fxpress as fx
import readme
from fxpress_ir.analysis.coupling import coupled_groups
from fxpress_ir.slicing import Plan
from fxpress_passes.contract import Context
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.evidence.gradients import own_cross_entropy
from fxpress_passes.prune.importance import COMPARABLE, IMPORTANCES, Asked
from fxpress_passes.prune.kinds import kind_of
from fxpress_passes.prune.shares import Scored, chosen
from fxpress_passes.prune.structured import Structured

RATIOS = (0.25, 0.5, 0.75)
SEEDS = (0, 1, 2)
"""Of the scores that are drawn: their mean is shown, and the lowest and the highest."""
SCORES = ("magnitude", "activation", "taylor", "fisher", "trajectory")
PASSES: Mapping[str, tuple[type[Structured], ...]] = {
    "digits-cnn": (fx.passes.PruneChannels,),
    "digits-vit": (fx.passes.PruneChannels, fx.passes.PruneHeads, fx.passes.PruneWidth),
    "char-lm": (fx.passes.PruneChannels, fx.passes.PruneHeads, fx.passes.PruneWidth),
}
LAYERS = ("digits-vit", "char-lm")
"""Those whose layers leave whole."""
AFTER = "reestimate-batch-norm"
HEAD = ("model", "pass", "MACs", *SCORES, "random: mean (range)")


@dataclass(frozen=True)
class Model:
    """A zoo entry, its program, and its calibration data as passes see them."""

    entry: fx.zoo.Entry
    program: fx.Program

    @classmethod
    def of(cls, name: str) -> Model:
        entry = fx.zoo.load(name)
        return cls(entry, fx.capture(entry.model, entry.inputs, dynamic_shapes=entry.dynamic_shapes))

    def context(self, seed: int = 0) -> Context:
        return Context(Evidence(Calibration(self.entry.calibration)), seed=seed)

    def quality(self, item: fx.passes.Pass, recover: int) -> tuple[float, int]:
        """Held-out quality and MACs after a pass, batch norms re-estimated; trained `recover` steps on calibration data."""
        steps = [item, fx.passes.Recover(steps=recover)] if recover else [item, fx.passes.ReestimateBatchNorm()]
        found = fx.Pipeline(steps).run(self.program, calibration=self.entry.calibration).program
        return self.entry.evaluate(found.run), found.cost().macs


def plans(model: Model, kind: type[Structured], score: str, seed: int = 0) -> Iterator[Plan]:
    """What leaves at each ratio; scored once."""
    groups = coupled_groups(model.program)
    mine = [group for group in groups.prunable if kind_of(group, groups, model.program).name == kind.kind]
    scores = IMPORTANCES[score](Asked(model.program, mine, model.context(seed), own_cross_entropy))
    found = {group.name: Scored.of(group, scores[group.name], 1) for group in mine}
    for ratio in RATIOS:
        yield Plan.of(model.program, chosen(found, ratio, "layer", score in COMPARABLE))


def rows(name: str, kind: type[Structured], recover: int = 0) -> list[tuple[str, ...]]:
    """One row a ratio."""
    model = Model.of(name)
    whole = model.program.cost().macs
    table: list[list[str]] = [[name, f"`{kind.name}{{ratio={ratio}}}`", ""] for ratio in RATIOS]
    for score in SCORES:
        for row, plan in zip(table, plans(model, kind, score), strict=True):
            quality, macs = model.quality(kind(plan=plan), recover)
            row[2] = f"{macs / whole:.0%}"
            row.append(f"{quality:.1%}")
    drawn = [[model.quality(kind(plan=plan), recover)[0] for plan in plans(model, kind, "random", seed)] for seed in SEEDS]
    for row, found in zip(table, zip(*drawn, strict=True), strict=True):
        row.append(f"{sum(found) / len(found):.1%} ({min(found):.1%} to {max(found):.1%})")
    return [tuple(row) for row in table]


def layers(name: str, recover: int = 0) -> list[tuple[str, ...]]:
    """Whole layers: by influence, by the loss without them, by chance."""
    model = Model.of(name)
    whole, table = model.program.cost().macs, []
    for ratio in RATIOS:
        found = [model.quality(fx.passes.PruneBlocks(ratio=ratio, score=score), recover) for score in ("influence", "loss")]
        chance = []
        for seed in SEEDS:
            plan = fx.passes.PruneBlocks(ratio=ratio, score="random").decide(model.program, model.context(seed))
            chance.append(model.quality(fx.passes.PruneBlocks(plan=plan), recover)[0])
        drawn = f"{sum(chance) / len(chance):.1%} ({min(chance):.1%} to {max(chance):.1%})"
        pruned = f"`prune-blocks{{ratio={ratio}}}`"
        table.append((name, pruned, f"{found[0][1] / whole:.0%}", *(f"{quality:.1%}" for quality, _ in found), drawn))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recover", type=int, default=0, help="steps of distillation on calibration data after pruning")
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    options = parser.parse_args()
    kinds = [row for name, found in PASSES.items() for kind in found for row in rows(name, kind, options.recover)]
    blocks = [row for name in LAYERS for row in layers(name, options.recover)]
    whole = ", ".join(f"{name} {model.entry.evaluate(model.program.run):.1%}" for name in PASSES for model in [Model.of(name)])
    trained = (
        f"{options.recover} steps of `recover` on calibration data" if options.recover else f"no training; `{AFTER}` where there are norms"
    )
    words = f"Held-out top-1 (char-lm: of the next byte); whole: {whole}; {trained}; random over {len(SEEDS)} seeds."
    tables = (readme.markdown(HEAD, kinds), readme.markdown(("model", "pass", "MACs", "influence", "loss", "random: mean (range)"), blocks))
    text = "\n\n".join((*tables, words))
    print(text)
    if options.write:
        readme.write("pruning", text)


if __name__ == "__main__":
    main()
