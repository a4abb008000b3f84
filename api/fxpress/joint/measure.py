"""float programs, the bits of their layers ==> bytes of their artifacts on a target, and seconds of each layer in place."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from fxpress_backends.artifact import lower
from fxpress_ir import Program
from fxpress_passes import QuantizeDyadic
from fxpress_passes.evidence import Calibration
from fxpress_passes.pipeline import Pipeline

from ..costs import MeasuredCosts
from .costs import OTHERS, Taken
from .space import Space

_CORE = "{}_acc"
"""The node of an integer program that multiplies for a layer of the float one."""


class TargetMeasure:
    """What `Costs.measured` asks, for one target.

    Args:
        timed: measures seconds; None where only sizes are asked for.
    """

    def __init__(self, space: Space, target: str, calibration: Calibration, timed: MeasuredCosts | None) -> None:
        self._space, self._target, self._calibration, self._timed = space, target, calibration, timed
        self._progress = space.context.progress

    def __call__(self, programs: Mapping[str, tuple[Program, Mapping[str, str]]]) -> dict[str, Taken]:
        made, sizes = dict[str, Program](), dict[str, int]()
        for place, (label, (cut, bits)) in enumerate(programs.items()):
            if self._progress is not None:
                self._progress("measuring costs", place, len(programs))
            quantize = QuantizeDyadic(bits=tuple(f"{name}={precision}" for name, precision in bits.items()))
            made[label] = Pipeline([quantize]).run(cut, self._calibration).program
            with tempfile.TemporaryDirectory() as folder:
                sizes[label] = lower(made[label], self._target, out=Path(folder) / "model").payload_size
            if self._timed is not None:
                self._timed.of(made[label])
        # kernels that programs share have by now been measured in all of them, and take one time in all
        return {label: Taken(sizes[label], self._seconds(programs[label][0], made[label])) for label in programs}

    def _seconds(self, cut: Program, program: Program) -> dict[str, float] | None:
        if self._timed is None:
            return None
        found, seconds = self._timed.of(program), defaultdict[str, float](float)
        for name, unit in self._space.units_in(cut).items():
            seconds[unit] += found.by_node[_CORE.format(name)]
        seconds[OTHERS] = max(found.seconds - sum(seconds.values()), 0.0)
        return dict(seconds)
