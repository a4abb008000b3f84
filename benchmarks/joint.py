"""Bits, ranks and channels chosen together against the best single family, at equal measured latency (and size): held-out loss, 3 seeds.

Run: ``python benchmarks/joint.py [--models digits-cnn char-lm] [--target tvm:native] [--seeds 3] [--write]`` (no extra; some ten minutes
a model and seed on two cores; what was measured is kept in ``build/joint``). Budgets are shares of what the program takes at 8 bits on
the target; families are searched and measured alike, and what changed more than bits is trained on the float model's outputs. The seed
draws the calibration data.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import readme
import seeds
from fxpress.joint.attempts import Search
from fxpress.joint.built import How
from fxpress.joint.goal import Budget
from fxpress.model_source import Source
from fxpress_ir.errors import InfeasibleError
from fxpress_passes.evidence import Calibration

BATCHES = 24
"""Of calibration data, by which training goes: three quarters of the images, some hundreds of windows of text."""
KEPT = Path(__file__).parents[1] / "build" / "joint"
ALL = "bits, ranks, channels"
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "bits": ("bits",),
    "ranks": ("ranks",),
    "channels": ("channels",),
    ALL: ("bits", "ranks", "channels"),
}
BUDGETS: Mapping[str, tuple[str, ...]] = {
    "digits-cnn": ("latency=0.45",),
    "char-lm": ("latency=0.7",),
}
"""Shares of the 8-bit program's that more than one family can hold, or else none but all together."""
SIZES: Mapping[str, Mapping[str, int]] = {"digits-cnn": {"batch": 256}, "char-lm": {"batch": 4}}
"""At which latency is measured, on one thread: one image takes 0.1 ms, most of it launches."""


def measured(name: str, target: str, seed: int, cache: Path, steps: int, limits: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """One row a budget and a family: what was found, or the line that says why nothing was."""
    model = seeds.Model.of(name)
    data = Calibration(model.drawn(seed, BATCHES))
    source = Source(name, model.entry.model, model.entry.inputs, model.entry.dynamic_shapes, data, model.entry.evaluate, scores=True)
    how = How(families=FAMILIES[ALL], rounds=1, steps=steps, seed=seed, cache=cache, repeats=60, threads=1, sizes=SIZES.get(name, {}))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        search = Search(source, model.program, data, target, how, True, Path(work))
        whole = search.whole
        assert whole is not None
        assert whole.ratio is not None
        of_float = {"size": whole.measured["size"].value / search.float_size, "latency": whole.ratio.median}
        original, eight = model.loss(model.program.run), model.loss(whole.program.run)
        for label, families in FAMILIES.items():
            for shares in limits:
                asked = [Budget(resource, share * of_float[resource], True) for resource, share in shares.items()]
                row: dict[str, Any] = {
                    "model": name,
                    "seed": seed,
                    "steps": steps,
                    "families": label,
                    "budget": shares,
                    "float": original,
                    "8 bits": eight,
                }
                try:
                    _, built = search.only(families).within(asked)
                except InfeasibleError as error:
                    rows.append({**row, "refused": str(error)})
                    continue
                ratio = {key: built.measured[key].value / whole.measured[key].value for key in ("latency", "size")}
                held = all(built.measured[key].low <= share * whole.measured[key].value for key, share in shares.items())
                rows.append({**row, **ratio, "loss": model.loss(built.program.run), "held": held})
                print(json.dumps(rows[-1]), flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """One line a model and budget; a cell has the mean and the range of the seeds' losses, and the mean latency measured."""
    lines, budgets = [], list(dict.fromkeys(json.dumps(row["budget"]) for row in rows))
    for name in dict.fromkeys(row["model"] for row in rows):
        for text in budgets:
            own = [row for row in rows if row["model"] == name and json.dumps(row["budget"]) == text]
            if own:
                cells = [name, ", ".join(f"{key} {share:g}" for key, share in json.loads(text).items())]
                cells += [str(len({row["seed"] for row in own})), ", ".join(map(str, sorted({row["steps"] for row in own})))]
                cells += [_cell([row for row in own if row["families"] == label]) for label in FAMILIES]
                cells += [f"{fmean(row[key] for row in own):.4f}" for key in ("8 bits", "float")]
                lines.append(tuple(cells))
    return readme.markdown(("model", "of the 8-bit program's", "seeds", "steps", *FAMILIES, "8 bits", "float"), lines)


def _cell(found: list[dict[str, Any]]) -> str:
    losses = [row["loss"] for row in found if "loss" in row]
    if not losses:
        return "no choice holds it"
    missed = sum(not row.get("held", False) for row in found)
    text = f"{fmean(losses):.4f} ({min(losses):.4f} to {max(losses):.4f}) at {fmean(row['latency'] for row in found if 'loss' in row):.2f}"
    return text + (f", {missed} of {len(found)} broke it" if missed else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["digits-cnn", "char-lm"])
    parser.add_argument("--target", default="tvm:native")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--budgets", nargs="+", help="shares of the 8-bit program's, instead of each model's own")
    parser.add_argument("--kept", action="store_true", help="measure nothing: show what is kept in build/joint")
    parser.add_argument("--write", action="store_true", help="put the table into docs/measurements.md")
    options = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    rows = list[dict[str, Any]]()
    for name in options.models:
        texts = options.budgets or BUDGETS.get(name, ("latency=0.7",))
        limits = [{part.split("=")[0]: float(part.split("=")[1]) for part in text.split(",")} for text in texts]
        for seed in range(options.seeds):
            path = KEPT / f"{name}-{options.target.replace(':', '-')}-{seed}.json"
            if not options.kept:
                path.write_text(json.dumps(measured(name, options.target, seed, KEPT / "costs", options.steps, limits)))
            if path.exists():
                rows += json.loads(path.read_text())
    words = "held-out loss, mean and range of seeds, and the latency measured over the 8-bit program's"
    text = f"{table(rows)}\n\nOn {options.target}, one thread: {words}; steps of training where more than bits changed."
    print(text)
    if options.write:
        readme.write("joint", text)


if __name__ == "__main__":
    main()
