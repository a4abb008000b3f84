"""float program, batches ==> smallest and largest value of each computed tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

import torch
from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError
from torch import Tensor, fx

from .calibration import Batch
from .histogram import Histogram
from .range import Range
from .second_moment import SecondMoment
from .tally import Tally
from .trace import Trace

_aten = torch.ops.aten
CHANNELS: dict[Any, int] = {
    _aten.linear.default: -1,
    **dict.fromkeys((_aten.conv1d.default, _aten.conv2d.default, _aten.conv3d.default), 1),
    **dict.fromkeys((_aten.conv_transpose1d.default, _aten.conv_transpose2d.input, _aten.conv_transpose3d.input), 1),
}
"""The axis of channels in what layers give."""
Fact = TypeVar("Fact", Range, Histogram, SecondMoment, Trace, Tally)


class Observer(fx.Interpreter, Generic[Fact]):
    """Runs a program batch by batch and merges what each floating-point value was into what was seen of it before.

    Values die at their last use. A batch counts whole or not at all: `found` is replaced after its last node, never changed.

    Args:
        found: what earlier batches gave.

    Class attributes:
        kind: the name of what it measures.
    """

    kind: ClassVar[str]

    def __init__(self, program: Program, found: Mapping[str, Fact] | None = None) -> None:
        super().__init__(program.module)
        self.extra_traceback = False  # it would make an error's one line many
        self.found: Mapping[str, Fact] = found or {}
        self._new: dict[str, Fact] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if _hides(n):
            return value
        if n.op in ("placeholder", "call_function") and isinstance(value, Tensor) and value.is_floating_point() and value.numel():
            seen = Range.of(value, CHANNELS.get(n.target))
            if not (abs(seen.low) < float("inf") and abs(seen.high) < float("inf")):
                raise CalibrationError(
                    "the value is NaN or infinite on calibration data", where=n.name, way_on="check the model and the data"
                )
            self._new[n.name] = self.fact(value, seen)
        return value

    def fact(self, value: Tensor, seen: Range) -> Fact:
        raise TypeError("an observer says what it keeps")

    def observe(self, batch: Batch) -> None:
        """Fold one batch in.

        Raises:
            CalibrationError: a value is NaN or infinite; nothing of the batch is kept.
        """
        self._new = {}
        with torch.no_grad():
            self.run(*batch)
        self.found, self._new = merged(self.found, self._new), {}


def _hides(n: fx.Node) -> bool:
    """A mask gives scores -inf, which no range holds: what is measured of them stands before."""
    return n.target is torch.ops.aten.where.ScalarOther and bool(n.args[2] == -math.inf)


def merged(one: Mapping[str, Fact], other: Mapping[str, Fact]) -> dict[str, Fact]:
    """What two sets of batches showed, by node name."""
    return {**one, **{name: fact if name not in one else one[name].merge(fact) for name, fact in other.items()}}


class Ranges(Observer[Range]):
    """Keeps one `Range` a node."""

    kind = "ranges"

    def fact(self, value: Tensor, seen: Range) -> Range:
        return seen


class Histograms(Observer[Histogram]):
    """Keeps one `Histogram` a node: 32 KiB each, whatever the data."""

    kind = "histograms"

    def fact(self, value: Tensor, seen: Range) -> Histogram:
        return Histogram.of(value, seen)
