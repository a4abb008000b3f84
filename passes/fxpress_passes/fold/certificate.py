"""What is kept of one fold: the layer, how far its result moved, and the zeros of its weight before and after."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Certificate:
    """One layer that took a fold.

    Attributes:
        layer: name of the tensor that took it.
        source: what was folded: the node that it ended in, or the adapter's name.
        residual: max abs difference over max abs value of the layer with what was folded, on `inputs`.
        inputs: ``random`` or ``calibration``.
        zeros: of the weight, before and after.
    """

    layer: str
    source: str
    residual: float
    inputs: str
    zeros: tuple[int, int]

    def __str__(self) -> str:
        before, after = self.zeros
        lost = f", {before - after} of its {before} zeros are lost" if after < before else ""
        return f"folded {self.source} into {self.layer}: residual {self.residual:.1e} on {self.inputs} inputs{lost}"


def residual(expected: Tensor, found: Tensor) -> float:
    """Max abs difference over max abs expected value, in float64; 0 where both are empty or zero."""
    wanted = expected.double()
    gap = float((wanted - found.double()).abs().max()) if wanted.numel() else 0.0
    return gap / max(float(wanted.abs().max()), 1e-30) if gap else 0.0


def zeros(weight: Tensor) -> int:
    return int((weight == 0).sum())
