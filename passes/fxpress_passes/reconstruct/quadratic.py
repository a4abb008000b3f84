"""inputs x, results y of a layer ==> E||(W + D) x + b - y||^2 as a function of D: all that learning a layer's weight needs of the data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Quadratic:
    """Moments over n rows, all float64 and in means: r = W x + b - y is what the layer with its own weight gives too much.

    Attributes:
        weight: W, [G, R, K].
        moment: E[x x^T], [G, K, K]; of x - E[x] where the bias takes the mean error.
        crossed: E[r x^T], [G, R, K]; of both without their means, the same.
        constant: E[r^2], [G, R]; the same.
        inputs, excess, wanted: E[x], [G, K], E[r] and E[y], [G, R].
        spread: the variance of y, [G, R].
        takes_mean: the bias takes the mean error.
    """

    weight: Tensor
    moment: Tensor
    crossed: Tensor
    constant: Tensor
    inputs: Tensor
    excess: Tensor
    wanted: Tensor
    spread: Tensor
    takes_mean: bool = True

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None, parts: Iterable[tuple[Tensor, Tensor]], *, takes_mean: bool) -> Quadratic:
        """Add up.

        Args:
            weight: float64 [G, R, K].
            bias: float64 [G, R].
            parts: x [G, n, K] and y [G, n, R], multiplied in their own precision and added up in float64.
        """
        count = 0
        sums: list[Tensor] = []
        for x, y in parts:
            excess = x @ weight.transpose(1, 2).to(x.dtype) - y
            excess = excess if bias is None else excess + bias[:, None].to(x.dtype)
            wide, far, wanted = x.transpose(1, 2), excess.double(), y.double()
            new = [wide @ x, excess.transpose(1, 2) @ x, far.square().sum(1), x.double().sum(1), far.sum(1), wanted.sum(1)]
            new.append(wanted.square().sum(1))
            sums = [part.double() for part in new] if not sums else [old + part.double() for old, part in zip(sums, new, strict=True)]
            count += x.shape[1]
        moment, crossed, constant, inputs, far, wanted, squares = (part / count for part in sums)
        if takes_mean:
            moment = moment - inputs[:, :, None] * inputs[:, None]
            crossed = crossed - far[:, :, None] * inputs[:, None]
            constant = constant - far.square()
        spread = (squares - wanted.square()).clamp_min(0)
        return cls(weight, moment, crossed, constant, inputs, far, wanted, spread, takes_mean)

    def is_finite(self) -> bool:
        return all(bool(part.isfinite().all()) for part in (self.moment, self.crossed, self.constant, self.spread))

    def errors(self, quantized: Tensor) -> Tensor:
        """The mean squared error of each output with weight `quantized`, [G, R], the bias's share taken where it takes the mean."""
        change = quantized.to(self.weight.dtype) - self.weight
        return ((change @ self.moment + 2 * self.crossed) * change).sum(2) + self.constant

    def offset(self, quantized: Tensor) -> Tensor:
        """The mean error of each output with weight `quantized` and the old bias, [G, R]."""
        change = quantized.to(self.weight.dtype) - self.weight
        return (change @ self.inputs[:, :, None])[:, :, 0] + self.excess

    def spread_of(self, quantized: Tensor) -> Tensor:
        """The variance of each output with weight `quantized`, [G, R]."""
        covariance = self.moment if self.takes_mean else self.moment - self.inputs[:, :, None] * self.inputs[:, None]
        return ((quantized @ covariance) * quantized).sum(2).clamp_min(0)

    def damped(self, share: float) -> Tensor:
        """The moment with `share` of its diagonal's mean added to it; columns that never change get a one instead."""
        diagonal = self.moment.diagonal(dim1=1, dim2=2)
        added = torch.where(diagonal == 0, 1.0, share * diagonal.mean(1, keepdim=True))
        return self.moment + torch.diag_embed(added)
