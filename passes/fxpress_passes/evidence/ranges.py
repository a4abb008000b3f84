"""float program, batches ==> smallest and largest value of each computed tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError
from torch import Tensor, fx

from .calibration import Batch


@dataclass(frozen=True)
class Range:
    """Smallest and largest value seen; `merge` joins what two sets of batches saw."""

    low: float
    high: float

    def merge(self, other: Range) -> Range:
        return Range(min(self.low, other.low), max(self.high, other.high))


class Ranges(fx.Interpreter):
    """Runs a program batch by batch and keeps one `Range` a node; values die at their last use."""

    def __init__(self, program: Program) -> None:
        super().__init__(program.module)
        self.extra_traceback = False  # it would make an error's one line many
        self.found: dict[str, Range] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op in ("placeholder", "call_function") and isinstance(value, Tensor) and value.is_floating_point() and value.numel():
            low, high = map(float, torch.aminmax(value.detach()))
            if not (abs(low) < float("inf") and abs(high) < float("inf")):
                raise CalibrationError(
                    "the value is NaN or infinite on calibration data", where=n.name, way_on="check the model and the data"
                )
            seen = Range(low, high)
            self.found[n.name] = seen if n.name not in self.found else self.found[n.name].merge(seen)
        return value

    def observe(self, batch: Batch) -> None:
        with torch.no_grad():
            self.run(*batch)
