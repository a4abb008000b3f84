"""The smallest and the largest value, and of layers' results how far each channel's values spread."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .spread import Spread


@dataclass(frozen=True)
class Range:
    """Smallest and largest value seen; `merge` joins what two sets of batches saw.

    Attributes:
        spread: of a linear layer's or a convolution's results.
    """

    low: float
    high: float
    spread: Spread | None = field(default=None, compare=False)

    @classmethod
    def of(cls, values: Tensor, axis: int | None = None) -> Range:
        """The range of one tensor that has elements; `axis` is that of the channels whose spread is kept."""
        low, high = map(float, torch.aminmax(values.detach()))
        return cls(low, high, None if axis is None else Spread.of(values, axis))

    def merge(self, other: Range) -> Range:
        low, high = min(self.low, other.low), max(self.high, other.high)
        if self.spread is None or other.spread is None:
            return Range(low, high, self.spread or other.spread)
        return Range(low, high, self.spread.merge(other.spread))
