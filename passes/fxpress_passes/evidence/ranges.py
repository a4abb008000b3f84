"""float program, batches ==> smallest and largest value of each computed tensor."""

from __future__ import annotations

from typing import Any

import torch
from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError
from torch import Tensor, fx

from .calibration import Batch
from .histogram import Histogram
from .range import Range


class _Observer(fx.Interpreter):
    """Runs a program batch by batch and folds each floating-point value into what was seen of it; values die at their last use."""

    def __init__(self, program: Program) -> None:
        super().__init__(program.module)
        self.extra_traceback = False  # it would make an error's one line many

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op in ("placeholder", "call_function") and isinstance(value, Tensor) and value.is_floating_point() and value.numel():
            low, high = map(float, torch.aminmax(value.detach()))
            if not (abs(low) < float("inf") and abs(high) < float("inf")):
                raise CalibrationError(
                    "the value is NaN or infinite on calibration data", where=n.name, way_on="check the model and the data"
                )
            self.fold(n.name, value, Range(low, high))
        return value

    def fold(self, name: str, value: Tensor, seen: Range) -> None:
        raise TypeError("an observer says what it keeps")

    def observe(self, batch: Batch) -> None:
        with torch.no_grad():
            self.run(*batch)


class Ranges(_Observer):
    """Keeps one `Range` a node."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.found: dict[str, Range] = {}

    def fold(self, name: str, value: Tensor, seen: Range) -> None:
        self.found[name] = seen if name not in self.found else self.found[name].merge(seen)


class Histograms(_Observer):
    """Keeps one `Histogram` a node: 32 KiB each, whatever the data."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.found: dict[str, Histogram] = {}

    def fold(self, name: str, value: Tensor, seen: Range) -> None:
        added = Histogram.of(value)
        self.found[name] = added if name not in self.found else self.found[name].merge(added)
