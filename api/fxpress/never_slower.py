"""recipe, target ==> the measurement that its passes are held to: of what the rest of the recipe makes of a program, on the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fxpress_backends.contract import Target
from fxpress_ir import Dimension, Program
from fxpress_ir.errors import PipelineError
from fxpress_passes import Pass
from fxpress_passes.contract import GIVEN
from fxpress_passes.evidence import Calibration
from fxpress_passes.pipeline import Pipeline
from torch import Tensor

from .latency import TargetLatency, latency_on

_WHERE = "never-slower"
NUMBERS = ("sparsify", "recover")
"""Passes that change numbers alone, at length; a measurement leaves them out."""


def latency_for(
    pipeline: Pipeline, card: Target, calibration: Calibration | None, sizes: Mapping[str, int], *, stage: str = "float"
) -> TargetLatency:
    """How the passes of `pipeline` that measure are to measure on a target.

    A float program goes through what follows the first of them, but for those that measure themselves, unless the target does
    not take what that gives: float targets get the program as it is.

    Raises:
        PipelineError: no pass makes the program smaller, or the target takes neither.
    """
    schedule = [item for item, _ in pipeline.schedule(stage)]
    first = next((place for place, item in enumerate(schedule) if asks_latency(item)), None)
    if first is None:
        way_on = "leave it out, or prune or factorise"
        raise PipelineError("no pass of the pipeline measures whether it makes a program faster", where=_WHERE, way_on=way_on)
    rest = Pipeline([item for item in schedule[first:] if not asks_latency(item) and item.name not in NUMBERS])
    gives = next((item.gives for item in reversed(rest.passes) if item.gives is not None), stage)
    if gives in card.stages:
        return latency_on(card.name, sizes=sizes, pipeline=rest, calibration=calibration)
    if stage in card.stages:
        return latency_on(card.name, sizes=sizes)
    takes = " and ".join(card.stages)
    what = f"target {card.name!r} takes {takes} programs, the pipeline makes none"
    raise PipelineError(what, where=_WHERE, way_on="add quantize-dyadic to the pipeline, or name another target")


def asks_latency(item: Pass) -> bool:
    """Whether a pass takes a measurement of whether it makes a program faster."""
    option = type(item).__dataclass_fields__.get("latency")
    return option is not None and GIVEN in option.metadata


def sizes_of(program: Program, batch: Sequence[Tensor]) -> dict[str, int]:
    """Sizes of dynamic dimensions to measure at: those of a batch, but its first dimensions, samples, as few as may be."""
    found: dict[str, int] = {}
    for spec, tensor in zip(program.inputs, batch, strict=True):
        for place, (wanted, size) in enumerate(zip(spec.shape, tensor.shape, strict=True)):
            if isinstance(wanted, Dimension):
                found.setdefault(wanted.name, wanted.minimum if place == 0 else size)
    return found
