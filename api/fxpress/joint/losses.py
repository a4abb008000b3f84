"""space, one choice of each unit ==> how far the float network with it is from the original, measured on calibration data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from itertools import islice
from math import isfinite

import torch
from fxpress_ir import Program
from fxpress_ir.errors import PassError
from fxpress_passes.evidence.calibration import Batch
from fxpress_passes.evidence.losses import Distance, divergence
from fxpress_passes.quantize.layer_choices import layers_of
from fxpress_passes.quantize.precision import precision_of
from fxpress_passes.quantize.rounded import rounded_weight
from torch import Tensor

from .space import Space, parts

MOST = 4
"""Batches that are looked at."""


class Losses:
    """Measures programs of one space.

    Args:
        distance: of outputs; `divergence` of scores along the last axis, or the relative error.
        trained: what single choices of ranks, channels and blocks are before they are measured: training gives back more of what
            some of them lose than of others.
    """

    def __init__(
        self, space: Space, distance: Distance = divergence, most: int = MOST, trained: Callable[[Program], Program] = lambda cut: cut
    ) -> None:
        self._space, self._distance, self._most, self._trained = space, distance, most, trained

    @cached_property
    def _batches(self) -> list[tuple[Batch, list[Tensor]]]:
        """The first batches and the original's outputs."""
        program = self._space.program
        batches = islice(self._space.context.evidence.calibration.batches(program), self._most)
        return [(batch, _outputs(program, {}, batch)) for batch in batches]

    def measured(self, program: Program, weights: Mapping[str, Tensor]) -> float:
        """The mean distance of a program with these weights from the original, summed over its floating-point outputs.

        Raises:
            PassError: it is NaN or infinite.
        """
        total = 0.0
        for batch, originals in self._batches:
            pairs = zip(originals, _outputs(program, weights, batch), strict=True)
            total += sum(float(self._distance(original, other)) for original, other in pairs)
        mean = total / len(self._batches)
        if not isfinite(mean):
            what = "with one of the choices the model's outputs are NaN or infinite"
            raise PassError(what, where="budget", way_on="repair the model and the data")
        return mean

    def of(self, chosen: Mapping[str, str]) -> float:
        """Of all choices together, weights rounded; inputs are not."""
        plan, cut = self._space.built(chosen)
        return self.measured(cut, rounded(cut, plan.bits))

    def singles(self) -> dict[tuple[str, str], float]:
        """Of each choice alone; ranks and bits of one layer are measured apart and added."""
        space, found = self._space, dict[tuple[str, str], float]()
        asked = [(unit, choice) for unit, choices in space.units.items() for choice in choices]
        known: dict[tuple[str, float | str], float] = {}
        for place, (unit, choice) in enumerate(asked):
            if unit in space.layers:
                share, bits = parts(choice)
                for part in (bits, share):
                    if (unit, part) not in known:
                        known[unit, part] = self._bits(unit, bits) if part == bits else self._share(unit, share)
                found[unit, choice] = known[unit, bits] + known[unit, share]
            else:
                first = choice == space.units[unit][0]
                found[unit, choice] = 0.0 if first else self._cut(unit, choice)
            if space.context.progress is not None:
                space.context.progress("measuring losses", place + 1, len(asked))
        return found

    def _bits(self, unit: str, bits: str) -> float:
        return self.measured(self._space.program, rounded(self._space.program, {self._space.layers[unit].names[0]: bits}))

    def _share(self, unit: str, share: float) -> float:
        if share == 1:
            return 0.0
        return self._cut(unit, f"r{share:g} w8")

    def _cut(self, unit: str, choice: str) -> float:
        return self.measured(self._trained(self._space.built({unit: choice})[1]), {})


def _outputs(program: Program, weights: Mapping[str, Tensor], batch: Batch) -> list[Tensor]:
    with torch.no_grad():
        found = torch.func.functional_call(program.module, dict(weights), batch)
    return [output for output in found if output.is_floating_point()]


def rounded(program: Program, bits: Mapping[str, str]) -> dict[str, Tensor]:
    """Weights as they are read back from the bits that their layers have; of layers that are not named none."""
    found = {}
    for layer in layers_of(program):
        if layer.names[0] in bits:
            precision = precision_of(bits[layer.names[0]], "budget")
            found[layer.weight] = rounded_weight(program.tensors[layer.weight], precision.weight, layer.axis)
    return found
