"""batch_norm(x; mean, var of the training data) ==> batch_norm(x; mean, var of x on calibration data)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fxpress_ir import Program

from ..contract import Context, Lossy, Pass, Promise
from .statistics import norms_with_statistics, reestimated


@dataclass(frozen=True)
class ReestimateBatchNorm(Pass):
    """Measure the statistics of every batch norm anew: after pruning or merging, its input has other ones.

    Each norm normalises by its batch's own statistics while they are averaged over the calibration batches (mean of the
    means, mean of the unbiased variances), so that later norms see corrected inputs; batches should be large and alike.

    Raises:
        CalibrationError: no usable calibration data, or a batch with one value per channel.
    """

    name: ClassVar[str] = "reestimate-batch-norm"
    promise: ClassVar[Promise] = Lossy(5.0)

    def apply(self, program: Program, context: Context) -> Program:
        return reestimated(program, context.evidence.calibration.batches(program)) if norms_with_statistics(program) else program
