"""``name=w4a16`` ==> the bits of one layer's weights and inputs; what is not named has a pass's own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fxpress_ir.errors import PipelineError
from torch import fx

from .recognize import Recognition
from .recognized import Recognized

WEIGHT_BITS = (8, 7, 6, 5, 4, 3, 2)
ACTIVATION_BITS = (8, 16)
_PRECISION = re.compile(r"w(?P<weight>[0-9]+)(?:a(?P<activation>[0-9]+))?")


@dataclass(frozen=True)
class Precision:
    """Bits of a layer's weights and of what it reads."""

    weight: int = 8
    activation: int = 8

    def __str__(self) -> str:
        return f"w{self.weight}a{self.activation}"


def precision_of(text: str, where: str) -> Precision:
    """``w4a16``, or ``w4`` for inputs of 8 bits.

    Raises:
        PipelineError: another form, or bits that there are not.
    """
    match = _PRECISION.fullmatch(text) if isinstance(text, str) else None
    found = Precision(int(match["weight"]), int(match["activation"] or 8)) if match else Precision(0)
    if found.weight not in WEIGHT_BITS or found.activation not in ACTIVATION_BITS:
        raise PipelineError(
            f"{text!r} is no precision", where=where, way_on='write "w4" or "w4a16": weights have 2 to 8 bits, inputs 8 or 16'
        )
    return found


def precisions(entries: Iterable[str], where: str) -> dict[str, Precision]:
    """Precisions by layers' names, from ``name=w4a16``.

    Raises:
        PipelineError: an entry of another form, a layer named twice.
    """
    found: dict[str, Precision] = {}
    for entry in entries:
        name, equals, text = entry.partition("=") if isinstance(entry, str) else (repr(entry), "", "")
        if not equals or not name:
            raise PipelineError(f"bits: cannot read {entry!r}", where=where, way_on='write "layer=w4", or "layer=w4a16"')
        if name in found:
            raise PipelineError(f"bits: {name!r} is named twice", where=where, way_on="keep one")
        found[name] = precision_of(text, f"{where}, bits of {name}")
    return found


def entries(found: Mapping[str, Precision]) -> tuple[str, ...]:
    """What `precisions` reads back."""
    return tuple(f"{name}={precision}" for name, precision in found.items())


def weighted_layers(recognition: Recognition) -> dict[str, fx.Node]:
    """The layers whose weights are quantised, by their names, in the graph's order."""
    return {
        node.name: node
        for node, what in recognition.found.items()
        if isinstance(what, Recognized) and what.kind == "weighted" and what.core is None
    }
