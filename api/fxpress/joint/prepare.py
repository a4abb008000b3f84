"""captured program ==> the float program that choices are made on: batch norms folded, every layer as quantisers take it."""

from __future__ import annotations

from fxpress_ir import Program
from fxpress_passes import PASSES, AllocateBits, FoldBatchNorm
from fxpress_passes.evidence import Calibration
from fxpress_passes.parse import find
from fxpress_passes.pipeline import Pipeline

PREPARE = Pipeline([FoldBatchNorm(), *(find(name, PASSES)() for name in AllocateBits.needs)])


def prepared(program: Program, calibration: Calibration | None = None) -> Program:
    """The same function, but for the rounding of folds."""
    return PREPARE.run(program, calibration).program
