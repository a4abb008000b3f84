"""Structured pruning of the zoo's models, each score against magnitude and chance: held-out quality without training.

Run: ``python benchmarks/pruning.py [--models NAME ...] [--all] [--write]`` (needs no extra; about five minutes).
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import fxpress as fx
import readme
from fxpress_ir.analysis.coupling import coupled_groups
from fxpress_ir.slicing import Plan
from fxpress_passes.evidence.gradients import own_cross_entropy
from fxpress_passes.prune.importance import COMPARABLE, IMPORTANCES, Asked
from fxpress_passes.prune.kinds import kind_of
from fxpress_passes.prune.shares import Scored, chosen
from fxpress_passes.prune.structured import Structured
from seeds import SEEDS, Model, Spread

RATIOS = (0.25, 0.5, 0.75)
SCORES = ("activation", "taylor", "fisher", "trajectory")
"""Those that look at data."""
BASES = ("magnitude", "random")
PASSES: Mapping[str, tuple[type[Structured], ...]] = {
    "digits-cnn": (fx.passes.PruneChannels,),
    "digits-vit": (fx.passes.PruneChannels, fx.passes.PruneHeads, fx.passes.PruneWidth),
    "char-lm": (fx.passes.PruneChannels, fx.passes.PruneHeads, fx.passes.PruneWidth),
}
LAYERS = ("digits-vit", "char-lm")
"""Those whose layers leave whole."""
LONG = (("char-lm", "prune-channels", "trajectory"),)
"""One run for each of 1408 hidden units and each seed: left out but for ``--all``."""
HEAD = ("model", "pass", "MACs", *BASES, *SCORES)
NONE = "-"


def plans(model: Model, kind: type[Structured], score: str, seed: int = 0) -> Iterator[Plan]:
    """What leaves at each ratio; scored once."""
    groups = coupled_groups(model.program)
    mine = [group for group in groups.prunable if kind_of(group, groups, model.program).name == kind.kind]
    scores = IMPORTANCES[score](Asked(model.program, mine, model.context(seed), own_cross_entropy))
    found = {group.name: Scored.of(group, scores[group.name], 1) for group in mine}
    for ratio in RATIOS:
        yield Plan.of(model.program, chosen(found, ratio, "layer", score in COMPARABLE))


def quality(model: Model, item: fx.passes.Pass, seed: int) -> tuple[float, int]:
    """Held-out quality and MACs after a pass, batch norms re-estimated."""
    context = model.context(seed)
    found = fx.passes.ReestimateBatchNorm().apply(item.apply(model.program, context), context)
    return model.entry.evaluate(found.run), found.cost().macs


def cell(found: Spread, bases: Sequence[Spread], verdicts: Counter[tuple[int, str]]) -> str:
    """The figures, and against each of the bases better, worse or tie, which are counted, too."""
    against = [found.against(base) for base in bases]
    verdicts.update(enumerate(against))
    return f"{found.shown('.1%')} {' / '.join(against)}"


def rows(model: Model, kind: type[Structured], verdicts: Mapping[str, Counter[tuple[int, str]]], every: bool) -> list[tuple[str, ...]]:
    """One row a ratio."""
    name, whole = model.entry.name, model.program.cost().macs
    found: dict[str, list[Spread]] = {}
    macs: list[int] = []
    for score in (*BASES, *SCORES):
        if every or (name, kind.name, score) not in LONG:
            drawn = [[quality(model, kind(plan=plan), seed) for plan in plans(model, kind, score, seed)] for seed in SEEDS]
            found[score] = [Spread(tuple(figure for figure, _ in one)) for one in zip(*drawn, strict=True)]
            macs = [size for _, size in drawn[0]]
    table = []
    for place, ratio in enumerate(RATIOS):
        bases = [found[base][place] for base in BASES]
        cells = [cell(found[score][place], bases, verdicts[score]) if score in found else NONE for score in SCORES]
        ends = (name, f"`{kind.name}{{ratio={ratio}}}`", f"{macs[place] / whole:.0%}", *(base.shown(".1%") for base in bases))
        table.append((*ends, *cells))
    return table


def layers(model: Model) -> list[tuple[str, ...]]:
    """Whole layers: by chance, by influence, by the loss without them."""
    whole, table = model.program.cost().macs, []
    for ratio in RATIOS:
        found: dict[str, Spread] = {}
        for score in ("random", "influence", "loss"):
            drawn = [quality(model, fx.passes.PruneBlocks(ratio=ratio, score=score), seed) for seed in SEEDS]
            found[score], macs = Spread(tuple(figure for figure, _ in drawn)), drawn[0][1]
        cells = [f"{found[score].shown('.1%')} {found[score].against(found['random'])}" for score in ("influence", "loss")]
        table.append(
            (model.entry.name, f"`prune-blocks{{ratio={ratio}}}`", f"{macs / whole:.0%}", found["random"].shown(".1%"), *cells),
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(PASSES), default=list(PASSES))
    parser.add_argument("--all", action="store_true", help=f"also what takes long: {LONG}")
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    options = parser.parse_args()
    verdicts: dict[str, Counter[tuple[int, str]]] = {score: Counter() for score in SCORES}
    kinds, blocks, whole = [], [], []
    for name in options.models:
        model = Model.of(name)
        whole.append(f"{name} {model.entry.evaluate(model.program.run):.1%}")
        for kind in PASSES[name]:
            kinds += rows(model, kind, verdicts, options.all)
            print(*kinds[-len(RATIOS) :], sep="\n", flush=True)
        blocks += layers(model) if name in LAYERS else []
    words = (
        f"Held-out top-1 (char-lm: of the next byte), mean (least to most) of {len(SEEDS)} seeds, which draw calibration data from "
        f"training inputs; no training, batch norms re-estimated; whole: {', '.join(whole)}. Behind a score: against magnitude / against "
        "random, tie where the intervals meet; `prune-blocks` against random."
    )
    names = ("better", "tie", "worse")
    counts = [
        (score, *(" / ".join(str(verdicts[score][place, name]) for name in names) for place in range(len(BASES)))) for score in SCORES
    ]
    tables = [
        readme.markdown(HEAD, kinds),
        readme.markdown(("rows: better / tie / worse", *(f"against {base}" for base in BASES)), counts),
    ]
    if blocks:
        tables.insert(1, readme.markdown(("model", "pass", "MACs", "random", "influence", "loss"), blocks))
    found = "\n\n".join((*tables, words))
    print(found)
    if options.write:
        readme.write("pruning", found)


if __name__ == "__main__":
    main()
