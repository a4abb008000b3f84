"""values, batch by batch ==> count, mean and variance of each channel, which two runs can merge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Spread:
    """How many values each channel had, their mean, float64 [channels], and their squared distances from it, summed."""

    count: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, values: Tensor, axis: int) -> Spread:
        """The spread of one tensor that has elements; channels along `axis`."""
        channels = values.shape[axis]
        variance, mean = torch.var_mean(values.detach().float().movedim(axis, -1).reshape(-1, channels), dim=0, correction=0)
        count = values.numel() // channels
        return cls(count, mean.double().numpy(), variance.double().numpy() * count)

    @property
    def variance(self) -> NDArray[np.float64]:
        """Of each channel."""
        return self.squares / self.count

    def merge(self, other: Spread) -> Spread:
        """The spread of both sets of values (Chan, Golub and LeVeque, 1983); equal to that of one run but for rounding."""
        count, apart = self.count + other.count, other.mean - self.mean
        squares = self.squares + other.squares + apart**2 * (self.count * other.count / count)
        return Spread(count, self.mean + apart * (other.count / count), squares)
