"""What factorising costs on held-out data, by metric and by decomposition, and what side paths give back at few bits of weights.

Run: ``python benchmarks/low_rank.py [--write]`` (needs no extra; some minutes).
"""

from __future__ import annotations

import argparse
from functools import cache
from itertools import product

import fxpress as fx
import readme
from fxpress.zoo.char_lm import TextEntry

MODELS = ("digits-cnn", "digits-vit", "char-lm")
METRICS = ("plain", "activations", "fisher")
ASKED = ("ratio=0.25", "ratio=0.5", "ratio=0.7", "energy=0.98")
DECOMPOSITIONS = ("channel", "spatial", "tucker")
BITS, RANKS = (4, 2), (4, 8, 16)
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


def by_rank() -> str:
    name, rows = "char-lm", []
    for bits in BITS:
        prefix = f"place-quantizers{{weight_bits={bits}, integer_only=true}}"
        rows.append((f"{bits} bits", "none", *[quality(name, after(name, prefix))] * 2))
        for rank in RANKS:
            texts = (f"{prefix}, compensate{{rank={rank}, below={BELOW}, metric={metric}}}" for metric in ("plain", "activations"))
            rows.append((f"{bits} bits", str(rank), *(quality(name, after(name, text)) for text in texts)))
    return readme.markdown((f"{name}, weights", "rank", "`plain` (LoRC)", "`activations` (EoRA)"), rows)


def integers() -> str:
    """The quality of integer programs after factorising, and with a side path."""
    rows = []
    for name, text in product(("digits-cnn", "digits-vit"), ("", "factorize{ratio=0.5}, ")):
        found = after(name, f"{text}quantize-dyadic{{integer_only=true}}")
        rows.append((name, f"`{text}quantize-dyadic`", quality(name, found), f"{found.cost().weight_bytes / 1024:.0f} KiB"))
    return readme.markdown(("model", "pipeline", "top-1", "weights"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    options = parser.parse_args()
    parts = []
    for table in (by_metric, by_decomposition, integers, by_rank):
        parts.append(table())
        print(parts[-1], flush=True)
        print()
    words = "Held-out top-1, of char-lm perplexity; in brackets the share of the model's parameters that is left."
    if options.write:
        readme.write("low-rank", "\n\n".join((*parts, words)))


if __name__ == "__main__":
    main()
