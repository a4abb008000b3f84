"""What factorising costs on held-out data, by metric and by decomposition, and what side paths give back of bits and zeros.

Run: ``python benchmarks/low_rank.py [--tables NAME ...] [--write]`` (needs no extra; some minutes).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import cache
from itertools import product

import fxpress as fx
import readme
import torch
from fxpress.zoo.char_lm import TextEntry
from fxpress_passes.contract import Context
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.evidence.second_moments import moment_key
from fxpress_passes.low_rank.decompositions.channel import Channel
from fxpress_passes.low_rank.lens import Lens
from fxpress_passes.quantize.lost import lost_on_the_way

MODELS = ("digits-cnn", "digits-vit", "char-lm")
METRICS = ("plain", "activations", "fisher")
ASKED = ("ratio=0.25", "ratio=0.5", "ratio=0.7", "energy=0.98")
DECOMPOSITIONS = ("channel", "spatial", "tucker")
CHANGES = {"4 bits": (False, 4), "2 bits": (False, 2), "2:4": (True, None), "2:4, 4 bits": (True, 4), "2:4, 2 bits": (True, 2)}
"""Of weights: whether two of four go, and bits of the others."""
RANKS = (4, 8, 16)
BELOW = 35
"""dB; of 8-bit weights, which the first and the last layer have, the error is farther below the results: they get no side path."""


@cache
def program(name: str) -> fx.Program:
    entry = fx.zoo.load(name)
    return fx.capture(entry.model, entry.inputs, dynamic_shapes=entry.dynamic_shapes)


def quality(name: str, found: fx.Program) -> str:
    """Held-out top-1, of the language model perplexity."""
    entry = fx.zoo.load(name)
    return f"{entry.perplexity(found.run):.2f}" if isinstance(entry, TextEntry) else f"{entry.evaluate(found.run):.2%}"


def after(name: str, text: str) -> fx.Program:
    return fx.Pipeline.parse(f"fold-batch-norm, {text}").run(program(name), calibration=fx.zoo.load(name).calibration).program


def share_left(name: str, found: fx.Program) -> str:
    return f"{found.cost().parameters / program(name).cost().parameters:.0%}"


def by_metric() -> str:
    rows = []
    for name in MODELS:
        rows.append((name, "whole", *[quality(name, program(name))] * len(METRICS)))
        for asked in ASKED:
            found = [after(name, f"factorize{{{asked}, metric={metric}}}") for metric in METRICS]
            rows.append((name, f"`{asked}`", *(f"{quality(name, one)} ({share_left(name, one)})" for one in found)))
    return readme.markdown(("model", "asked", *(f"`{metric}`" for metric in METRICS)), rows)


def by_decomposition() -> str:
    name, rows = "digits-cnn", []
    for ratio in (0.5, 0.7):
        found = [after(name, f"factorize{{ratio={ratio}, convolutions={kind}}}") for kind in DECOMPOSITIONS]
        rows.append((f"`ratio={ratio}`", *(quality(name, one) for one in found)))
    return readme.markdown((name, *(f"`{kind}`" for kind in DECOMPOSITIONS)), rows)


def changed(name: str, zeros: bool, bits: int | None) -> tuple[fx.Program, Context]:
    """With weights that lost something, and what a pass behind that gets in the same pipeline."""
    data = fx.zoo.load(name).calibration
    context = Context(Evidence(Calibration(data)))
    found = fx.passes.Sparsify(pattern="2:4").apply(program(name), context) if zeros else program(name)
    context.losses = ((program(name), found),) if zeros else ()
    if bits is not None:
        found = fx.Pipeline.parse(f"place-quantizers{{weight_bits={bits}, integer_only=true}}").run(found, calibration=data).program
    return found, context


def gains(found: fx.Program, context: Context) -> Iterator[float]:
    """For every layer and rank: the weighted error ||(W - W_c - B A) X||^2 that `activations` leaves, over that of `plain`."""
    moments = context.evidence.second_moments(found)
    for lost in lost_on_the_way(found, context):
        error, lens = lost.error.flatten(1), Lens(moment=torch.from_numpy(moments[moment_key(lost.node)].moment))
        for rank in (rank for rank in RANKS if rank <= min(error.shape)):
            plain, weighted = (
                lens.energy(error - last.weight.flatten(1) @ first.weight.flatten(1))
                for first, last in (Channel(lost.error, one).pieces((rank,)) for one in (Lens(), lens))
            )
            yield weighted / plain


def by_rank(name: str = "char-lm") -> str:
    rows, ratios = [], list[float]()
    for label, (zeros, bits) in CHANGES.items():
        found, context = changed(name, zeros, bits)
        ratios += gains(found, context)
        rows.append((label, "none", *[quality(name, found)] * 2))
        for rank in RANKS:
            items = (fx.passes.Compensate(rank=rank, below=BELOW, metric=metric) for metric in ("plain", "activations"))
            rows.append((label, str(rank), *(quality(name, item.apply(found, context)) for item in items)))
    held = sum(ratio <= 1 + 1e-9 for ratio in ratios)
    words = (
        f"On calibration data EoRA's weighted error is at most LoRC's in {held} of {len(ratios)} cases (every layer, rank and row above), "
        f"{min(ratios):.0%} to {max(ratios):.0%} of it."
    )
    return f"{readme.markdown((f'{name}, weights', 'rank', '`plain` (LoRC)', '`activations` (EoRA)'), rows)}\n\n{words}"


def integers() -> str:
    """The quality of integer programs after factorising, and with a side path."""
    rows = []
    for name, text in product(("digits-cnn", "digits-vit"), ("", "factorize{ratio=0.5}, ")):
        found = after(name, f"{text}quantize-dyadic{{integer_only=true}}")
        rows.append((name, f"`{text}quantize-dyadic`", quality(name, found), f"{found.cost().weight_bytes / 1024:.0f} KiB"))
    return readme.markdown(("model", "pipeline", "top-1", "weights"), rows)


TABLES = {"metrics": by_metric, "decompositions": by_decomposition, "integers": integers, "side-paths": by_rank}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--write", action="store_true", help="put all tables into README.md")
    options = parser.parse_args()
    parts = []
    for name in options.tables if not options.write else TABLES:
        parts.append(TABLES[name]())
        print(parts[-1], flush=True)
        print()
    words = "Held-out top-1, of char-lm perplexity; in brackets the share of the model's parameters that is left."
    if options.write:
        readme.write("low-rank", "\n\n".join((*parts, words)))


if __name__ == "__main__":
    main()
