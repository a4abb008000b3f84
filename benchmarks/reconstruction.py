"""few bits, rounded to nearest or reconstructed by each method: held-out quality of the zoo's models, and the error of every layer.

Run: ``python benchmarks/reconstruction.py [--models NAME ...] [--bits N ...] [--steps N] [--write]`` (needs no extra).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import fxpress as fx
import readme
import torch
from fxpress_passes.contract import Context
from fxpress_passes.quantize.placing import place
from fxpress_passes.quantize.scales import Snapped
from fxpress_passes.reconstruct.layers import layers_of
from fxpress_passes.reconstruct.methods import METHODS
from fxpress_passes.reconstruct.walk import layer_errors
from seeds import SEEDS, Batch, Model, Spread
from torch.nn import functional

MODELS = ("digits-cnn", "digits-vit", "char-lm")
BITS = (4, 3, 2)
STEPS, BATCHES = 60, 4
PREPARED = "remove-noops, fold-constants, fold-batch-norm, decompose-attention"
NONE = "none"
NAMES = (NONE, *METHODS)
TOLD = 64
"""Held-out images of which layers' errors are measured, of text a quarter as many windows."""


@dataclass(frozen=True)
class Found:
    """Of one program on held-out data: the share of right answers, the cross-entropy, and each layer's relative squared error."""

    right: float
    loss: float
    errors: tuple[float, ...]


@cache
def placed(name: str, bits: int, seed: int, one_scale: bool = False) -> fx.Program:
    """All weights in so many bits, activations in 8; with `one_scale`, a layer's channels have the largest of their scales."""
    model, context = Model.of(name), Model.of(name).context(seed, BATCHES)
    program = fx.Pipeline.parse(PREPARED).run(model.program).program
    item = fx.passes.PlaceQuantizers(weight_bits=bits, edge_bits=bits)
    whole = fx.Pipeline([item]).schedule("float")
    for step, _ in whole[:-1]:
        program = step.apply(program, context)
    plan = item.decide(program, context)
    if one_scale:
        plan = replace(plan, weights={key: _widest(snapped) for key, snapped in plan.weights.items()})
    return place(program, plan)


def _widest(snapped: Snapped) -> Snapped:
    count = len(snapped.b)
    return replace(snapped, scales=(max(snapped.scales),) * count, b=(max(snapped.b),) * count)


def reconstructed(name: str, program: fx.Program, method: str, seed: int, steps: int, **options: bool) -> fx.Program:
    """By one method, on the batches that the quantisers were placed by."""
    if method == NONE:
        return program
    item = fx.passes.Reconstruct(method=method, steps=steps, **options)
    return item.apply(program, Model.of(name).context(seed, BATCHES))


def measured(name: str, program: fx.Program, reference: fx.Program) -> Found:
    """Layers' errors are against what `reference` gives without its quantisers."""
    model, right, loss = Model.of(name), 0.0, 0.0
    inputs, labels = (part[:: 2 if model.is_text else 1] for part in model.entry.held_out)
    with torch.no_grad():
        for some, wanted in zip(torch.split(inputs, 64), torch.split(labels, 64), strict=True):
            scores = program.run(some)[0].flatten(0, -2)
            right += float((scores.argmax(-1) == wanted.flatten()).sum())
            loss += float(functional.cross_entropy(scores, wanted.flatten(), reduction="sum"))
    layers = [layer.name for layer in layers_of(reference, Context())]
    told: list[Batch] = [(inputs[: TOLD // 4 if model.is_text else TOLD],)]
    errors = layer_errors(program, reference, told, layers)
    return Found(right / labels.numel(), loss / labels.numel(), tuple(errors[layer] for layer in layers))


def rows(name: str, bits: int, steps: int) -> list[tuple[str, ...]]:
    """One a method: quality, the verdict on the loss against rounding to nearest, and layers."""
    found: dict[str, list[Found]] = {method: [] for method in NAMES}
    for seed in SEEDS:
        program = placed(name, bits, seed)
        for method in NAMES:
            found[method].append(measured(name, reconstructed(name, program, method, seed, steps), program))
    losses = {method: Spread(tuple(one.loss for one in each), falls=True) for method, each in found.items()}
    table = []
    for method, each in found.items():
        right = Spread(tuple(one.right for one in each))
        told = ("", "", "") if method == NONE else (losses[method].against(losses[NONE]), *_layers(each, found[NONE]))
        table.append((name, str(bits), f"`{method}`" if method != NONE else method, right.shown(".1%"), losses[method].shown(".3f"), *told))
    return table


def _layers(found: Sequence[Found], nearest: Sequence[Found]) -> tuple[str, str]:
    """How many of all seeds' layers have less error than rounding to nearest leaves, and the mean and the largest ratio."""
    ratios = [a / b for one, other in zip(found, nearest, strict=True) for a, b in zip(one.errors, other.errors, strict=True)]
    return f"{sum(ratio < 1 for ratio in ratios)} of {len(ratios)}", f"{sum(ratios) / len(ratios):.2f} ({max(ratios):.2f})"


HEAD = ("model", "bits", "method", "right", "loss", "against none", "layers with less error", "their error, mean (most)")


def one_scale(steps: int) -> str:
    """FlexRound beside AdaRound at 4 bits on char-lm, one scale a layer; FlexRound learns that, too."""
    name, ratios, losses = "char-lm", list[float](), dict[str, list[float]]()
    for seed in SEEDS:
        program = placed(name, 4, seed, True)
        found = {}
        for method in (NONE, "adaround", "flexround"):
            found[method] = measured(name, reconstructed(name, program, method, seed, steps), program)
            losses.setdefault(method, []).append(found[method].loss)
        ratios += [a / b for a, b in zip(found["flexround"].errors, found["adaround"].errors, strict=True)]
    spreads = {method: Spread(tuple(figures), falls=True) for method, figures in losses.items()}
    least = sum(ratio <= 1 for ratio in ratios)
    return (
        f"char-lm, 4 bits, one scale a layer: `flexround` leaves at most the error of `adaround` in {least} of {len(ratios)} layers, "
        f"{sum(ratios) / len(ratios):.2f} of it in the mean, {max(ratios):.2f} at most; loss {spreads['flexround'].shown('.3f')} against "
        f"{spreads['adaround'].shown('.3f')} ({spreads['flexround'].against(spreads['adaround'])}), "
        f"{spreads[NONE].shown('.3f')} rounded to nearest."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--bits", nargs="+", type=int, choices=BITS, default=list(BITS))
    parser.add_argument("--steps", type=int, default=STEPS, help="of the methods that train")
    parser.add_argument("--write", action="store_true", help="put the table into docs/measurements.md")
    options = parser.parse_args()
    table = []
    for name in options.models:
        for bits in options.bits:
            for cells in rows(name, bits, options.steps):
                print(*cells, sep="  ", flush=True)
                table.append(cells)
    words = (
        f"All weights in so many bits, activations in 8, simulated; {len(SEEDS)} seeds draw the calibration data ({BATCHES * 32} images, "
        f"or {BATCHES * 16} windows of text), mean (least to most); *right*: top-1, of text the next byte; held-out data. Methods that "
        f"train take {options.steps} steps. A layer's error is its squared distance from the float network's result, what it inherits "
        "from earlier layers included."
    )
    found = f"{readme.markdown(HEAD, table)}\n\n{words}"
    if "char-lm" in options.models:
        found += f"\n\n{one_scale(options.steps)}"
    print(found)
    if options.write:
        readme.write("reconstruction", found)


if __name__ == "__main__":
    main()
