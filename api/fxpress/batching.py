"""inputs, batch size, limit ==> which samples form which batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fxpress_ir import InputSpec
from fxpress_ir.errors import CalibrationError

BATCH = 32
"""Samples a batch where nothing else is said."""


@dataclass(frozen=True)
class Batching:
    """Batches of `size` samples, the last one of `smallest` at least, `limit` samples in all."""

    size: int
    smallest: int
    limit: int | None

    @classmethod
    def of(cls, inputs: Sequence[InputSpec], size: int | None, limit: int | None, where: str) -> Batching:
        """What dimension 0 of every input admits; `size` None takes 32 or the nearest admitted.

        Raises:
            CalibrationError: an input has no dimension 0, or does not admit the size; a number is not positive.
        """
        for name, number in (("batch_size", size), ("limit", limit)):
            if number is not None and number < 1:
                raise CalibrationError(f"{name} is {number}", where=where, way_on="1 or more")
        found, smallest = size or BATCH, 1
        for spec in inputs:
            if not spec.shape:
                raise CalibrationError(f"input {spec} has no dimension that counts samples", where=where, way_on="use a factory")
            first = spec.shape[0]
            least, most = (first, first) if isinstance(first, int) else (first.minimum, first.maximum)
            nearest = min(max(found, least), most or max(found, least))
            if size is not None and nearest != size:
                admitted = least if least == most else f"{least} to {most}" if most else f"{least} or more"
                message = f"batch_size is {size}, input {spec} takes {admitted}"
                raise CalibrationError(message, where=where, way_on=f"batch_size {nearest}, or capture with a dynamic batch")
            found, smallest = nearest, max(smallest, least)
        return cls(found, smallest, limit)

    def spans(self, count: int, where: str) -> list[slice]:
        """The samples of each batch, out of `count`; too few at the end are left out.

        Raises:
            CalibrationError: there are not enough for one batch.
        """
        count = count if self.limit is None else min(count, self.limit)
        spans = [slice(start, min(start + self.size, count)) for start in range(0, count, self.size)]
        spans = [span for span in spans if span.stop - span.start >= self.smallest]
        if not spans:
            raise CalibrationError(f"{count} samples are no batch of {self.smallest}", where=where, way_on="give more samples")
        return spans
