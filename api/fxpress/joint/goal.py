"""``latency=0.77x`` or ``size=120kB`` ==> a budget; ``accuracy=-0.5`` ==> a floor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf

from fxpress_ir.errors import PipelineError

_WHERE = "compress"
_UNITS: Mapping[str, Mapping[str, float]] = {
    "size": {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
    "latency": {"us": 1e-6, "ms": 1e-3, "s": 1.0},
}
_BUDGET = re.compile(r"(?P<name>[a-z]+)=(?P<value>[0-9]+(?:\.[0-9]+)?)(?P<unit>[A-Za-z]+)")
_FLOOR = re.compile(r"accuracy=(?P<points>-?[0-9]+(?:\.[0-9]+)?)")


@dataclass(frozen=True)
class Budget:
    """The most of a resource: bytes of payload or seconds of a run, or their share of the float model's."""

    resource: str
    value: float
    relative: bool

    def within(self, whole: float) -> float:
        """Bytes or seconds, where the float model takes `whole`."""
        return self.value * whole if self.relative else self.value

    def __str__(self) -> str:
        return f"{self.resource}={self.value:g}{'x' if self.relative else 'B' if self.resource == 'size' else 's'}"


def budgets(texts: Iterable[str]) -> tuple[Budget, ...]:
    """Budgets, one a resource.

    Raises:
        PipelineError: another form, an unknown resource or unit, nothing or less, or a resource named twice.
    """
    found: dict[str, Budget] = {}
    for text in texts:
        match = _BUDGET.fullmatch(text.strip())
        known = _UNITS.get(match["name"]) if match else None
        if match is None or known is None or (match["unit"] != "x" and match["unit"] not in known) or not 0 < float(match["value"]) < inf:
            way_on = "write it so: latency=0.77x, latency=1.5ms, size=0.15x or size=120kB"
            raise PipelineError(f"--budget {text!r} is no budget", where=_WHERE, way_on=way_on)
        if match["name"] in found:
            raise PipelineError(f"two budgets of {match['name']}", where=_WHERE, way_on="keep one")
        relative = match["unit"] == "x"
        found[match["name"]] = Budget(match["name"], float(match["value"]) * (1.0 if relative else known[match["unit"]]), relative)
    return tuple(found.values())


def floor(texts: Iterable[str]) -> float | None:
    """The least change of accuracy against the float model, in points of 100; None where none is asked.

    Raises:
        PipelineError: another form, or two.
    """
    given = list(texts)
    if not given:
        return None
    match = _FLOOR.fullmatch(given[0].strip())
    if match is None or len(given) > 1:
        raise PipelineError(f"--floor {', '.join(given)!r} is no floor", where=_WHERE, way_on="write one, so: accuracy=-0.5")
    return float(match["points"])
