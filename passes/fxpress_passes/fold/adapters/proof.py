"""A fold as computed and as stored ==> its certificate: W' x + b' against (W + dW) x + b + db; what a quantiser does to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from ..certificate import Certificate, residual, zeros
from ..observed import Observed
from .layer import Folded, Layer
from .runs import calibrated, drawn
from .sites import Site


def certificate(site: Site, source: str, before: Layer, computed: Folded, stored: Folded, observed: Observed) -> Certificate:
    """In float64, W x + b + (dW x + db) against the stored W' x + b', on calibration data or, without them, on random inputs."""
    ran = calibrated(site, before, observed)
    inputs = "random" if ran is None else "calibration"
    ran = ran or drawn(site, before)
    delta = computed[0] - before.weight
    shift = None if computed[1] is None else computed[1] - before.bias_or_zero
    expected = ran(before.weight, before.bias) + ran(delta, shift)
    return Certificate(site.weight, source, residual(expected, ran(*stored)), inputs, (zeros(before.weight), zeros(stored[0])))


@dataclass(frozen=True)
class Requantized:
    """What the quantiser behind a folded weight does to it.

    Attributes:
        layer: name of the tensor.
        decibels: energy of the folded weight over that of what quantising it again loses; infinite where it loses nothing.
        clamped: elements beyond the scale's range.
    """

    layer: str
    decibels: float
    clamped: int

    def __str__(self) -> str:
        return f"{self.layer} is quantised again with its scale: {self.decibels:.1f} dB, {self.clamped} elements clamped"


def requantized(quantizer: fx.Node, weight: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """What the quantiser makes of the weight."""
    scale, rest = _scale(quantizer, tensors)
    found: Tensor = quantizer.target(weight, scale, *rest)  # type: ignore[operator]
    return found


def requantizing(site: Site, quantizer: fx.Node, weight: Tensor, tensors: Mapping[str, Tensor]) -> Requantized:
    """The cost of the second rounding, for the report."""
    error = (requantized(quantizer, weight, tensors) - weight).double()
    noise, named = float(error.square().sum()), arguments(quantizer)
    signal = float(weight.double().square().sum())
    decibels = float("inf") if noise == 0 else float(10 * torch.log10(torch.tensor(signal / noise, dtype=torch.float64)))
    scale = _scale(quantizer, tensors)[0]
    steps = torch.as_tensor(scale, dtype=torch.float64)
    if steps.dim():
        steps = steps.reshape([-1 if d == named["axis"] % weight.dim() else 1 for d in range(weight.dim())])
    ints = torch.round(weight.double() / steps)
    return Requantized(site.weight, decibels, int(((ints < named["qmin"]) | (ints > named["qmax"])).sum()))


def _scale(quantizer: fx.Node, tensors: Mapping[str, Tensor]) -> tuple[Tensor | float, list[int]]:
    named = arguments(quantizer)
    scale = named["scale"]
    value = tensors[str(scale.target)] if isinstance(scale, fx.Node) else float(scale)
    return value, [named[name] for name in ("axis", "qmin", "qmax") if name in named]
