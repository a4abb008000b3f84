"""calibration data ==> what candidates are trained on, and what they are judged by afterwards: batches that training did not see."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from fxpress_ir import Program, run_on_reals
from fxpress_passes.evidence import Calibration
from fxpress_passes.evidence.calibration import Batch
from fxpress_passes.evidence.losses import Distance

EVERY = 4
"""One batch in so many is set aside; of fewer none, and candidates are judged by what they were trained on."""


class _Part:
    """Batches of some data whose place in every four is one of these."""

    def __init__(self, data: Calibration, program: Program, places: tuple[int, ...]) -> None:
        self._data, self._program, self._places = data, program, places

    def __iter__(self) -> Iterator[Batch]:
        for place, batch in enumerate(self._data.batches(self._program)):
            if place % EVERY in self._places:
                yield batch


class Judge:
    """Compares integer programs with the original on batches that were set aside.

    Attributes:
        training: all other batches.

    Args:
        original: the float program.
        distance: of outputs, the original's first.
    """

    def __init__(self, original: Program, data: Calibration, distance: Distance) -> None:
        self._original, self._distance = original, distance
        self.training, self._aside = data, data
        if sum(1 for _ in data.batches(original)) >= EVERY:
            self.training = Calibration(_Part(data, original, tuple(range(EVERY - 1))))
            self._aside = Calibration(_Part(data, original, (EVERY - 1,)))

    def loss(self, program: Program) -> float:
        """The mean distance, summed over floating-point outputs."""
        total, count = 0.0, 0
        for batch in self._aside.batches(self._original):
            with torch.no_grad():
                pairs = zip(self._original.run(*batch), run_on_reals(program, *batch), strict=True)
                total += sum(float(self._distance(one, other)) for one, other in pairs if one.is_floating_point())
            count += 1
        return total / count
