"""float programs, the bits of their layers ==> bytes of their artifacts on a target, and seconds of each layer in place.

A profile says how a run's time is shared among layers, and a benchmark in which all programs take turns how long runs are: profiles are
of processes one after another, which differ by more than what is chosen between.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fxpress_backends.artifact import Artifact, lower
from fxpress_backends.latency import Table
from fxpress_ir import Program
from fxpress_passes import QuantizeDyadic
from fxpress_passes.evidence import Calibration
from fxpress_passes.pipeline import Pipeline

from ..costs import GroupCosts, MeasuredCosts
from .costs import OTHERS, Taken
from .space import Space

_CORE = "{}_acc"
"""The node of an integer program that multiplies for a layer of the float one."""
TOGETHER = 4
"""Programs that are measured in one run beside the first: each is a process with all of its weights."""


class TargetMeasure:
    """What `Costs.measured` asks, for one target.

    Args:
        timed: measures seconds of kernels; None where only sizes are asked for.
        bench: measures runs of artifacts that take turns.
    """

    def __init__(
        self,
        space: Space,
        target: str,
        calibration: Calibration,
        timed: MeasuredCosts | None,
        bench: Callable[[Sequence[Artifact]], Table],
    ) -> None:
        self._space, self._target, self._calibration, self._timed, self._bench = space, target, calibration, timed, bench
        self._progress = space.context.progress

    def __call__(self, programs: Mapping[str, tuple[Program, Mapping[str, str]]]) -> dict[str, Taken]:
        made, artifacts, sizes = dict[str, Program](), dict[str, Artifact](), dict[str, int]()
        with tempfile.TemporaryDirectory(prefix="fxpress-costs-") as folder:
            for place, (label, (cut, bits)) in enumerate(programs.items()):
                if self._progress is not None:
                    self._progress("measuring costs", place, len(programs))
                quantize = QuantizeDyadic(bits=tuple(f"{name}={precision}" for name, precision in bits.items()))
                made[label] = Pipeline([quantize]).run(cut, self._calibration).program
                artifacts[label] = lower(made[label], self._target, out=Path(folder) / str(place))
                sizes[label] = artifacts[label].payload_size
                if self._timed is not None:
                    self._timed.of(made[label])
            if self._timed is None:
                return {label: Taken(sizes[label], None) for label in programs}
            # kernels that programs share have by now been measured in all of them, and take one time in all
            costs = {label: self._timed.of(program) for label, program in made.items()}
            wholes = self._wholes(artifacts, costs)
        return {label: Taken(sizes[label], self._seconds(programs[label][0], costs[label], wholes[label])) for label in programs}

    def _wholes(self, artifacts: Mapping[str, Artifact], costs: Mapping[str, GroupCosts]) -> dict[str, float]:
        """Seconds of a run: the first program's as its kernels sum up, others' by their ratio to it, from runs in turns."""
        first, *others = artifacts
        wholes, kernels = {first: costs[first].seconds}, [signature for _, signature, _ in costs[first].groups]
        for label in others:
            if [signature for _, signature, _ in costs[label].groups] == kernels:
                wholes[label] = wholes[first]  # the same run, whose ratio would be noise
        unlike = [label for label in others if label not in wholes]
        for start in range(0, len(unlike), TOGETHER):
            some = unlike[start : start + TOGETHER]
            table = self._bench([artifacts[first], *(artifacts[label] for label in some)])
            wholes.update({label: wholes[first] * table.ratio(place, 0).median for place, label in enumerate(some, start=1)})
        return wholes

    def _seconds(self, cut: Program, found: GroupCosts, whole: float) -> dict[str, float]:
        seconds = defaultdict[str, float](float)
        for name, unit in self._space.units_in(cut).items():
            seconds[unit] += found.by_node[_CORE.format(name)]
        seconds[OTHERS] = max(found.seconds - sum(seconds.values()), 0.0)
        return {name: value * whole / found.seconds for name, value in seconds.items()}
