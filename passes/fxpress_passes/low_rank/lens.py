"""matrix M, what its outputs and inputs weigh ==> the truncation that loses least of D (M - M_r) S, D diagonal, S S^T = E[x x^T]."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Lens:
    """Through what the error of a weight is looked at; None where nothing weighs.

    Attributes:
        rows: the weight of each output channel, float64 [outputs], positive.
        moment: E[x x^T] of the inputs, float64 [columns, columns], columns as in the flattened weight; its diagonal alone,
            [columns], where the inputs are uncorrelated.
    """

    rows: Tensor | None = None
    moment: Tensor | None = None

    def energy(self, matrix: Tensor) -> float:
        """||D M S||^2 of a float64 matrix [rows, columns], without a root."""
        weighed = matrix if self.rows is None else matrix * self.rows[:, None]
        if self.moment is None:
            return float(weighed.square().sum())
        return float(((weighed * self.moment if self.moment.dim() == 1 else weighed @ self.moment) * weighed).sum())


@dataclass(frozen=True, eq=False)
class Truncation:
    """Best approximations of a matrix, at every rank up to the full one.

    The singular vectors of D M S project M itself: D^-1 U_r U_r^T D M. That is the optimum of Eckart, Young and Mirsky for
    D M S without the inverse of S, which inputs that never vary have not (SVD-LLM's and EoRA's are equal to it where they have).

    Attributes:
        energies: squared singular values of D M S, falling, float64 [full rank].
    """

    energies: Tensor
    _left: Tensor
    _right: Tensor

    @classmethod
    def of(cls, matrix: Tensor, lens: Lens) -> Truncation:
        """Of a float64 matrix [rows, columns]; `lens` has as many rows and columns."""
        weighed = matrix if lens.rows is None else matrix * lens.rows[:, None]
        seen = weighed if lens.moment is None else _through(weighed, lens.moment)
        left, values, _ = torch.linalg.svd(seen, full_matrices=False)
        back = left if lens.rows is None else left / lens.rows[:, None]
        return cls(values.square(), back, left.T @ weighed)

    def at(self, rank: int) -> tuple[Tensor, Tensor]:
        """Left [rows, rank] and right [rank, columns]; their product is the approximation."""
        return self._left[:, :rank], self._right[:rank]

    def lost(self) -> Tensor:
        """The share of energy that each rank from 0 to the full one leaves behind, float64 [full rank + 1]; 0 of a zero matrix."""
        # added up from the least one, so that the last ones are not lost in rounding
        tails = torch.cat([self.energies.flip(0).cumsum(0).flip(0), self.energies.new_zeros(1)])
        return tails / tails[0].clamp_min(torch.finfo(torch.float64).tiny)


def _through(matrix: Tensor, moment: Tensor) -> Tensor:
    """M S."""
    return matrix * moment.clamp_min(0).sqrt() if moment.dim() == 1 else matrix @ root(moment)


def root(moment: Tensor) -> Tensor:
    """S with S S^T = the moment, negative eigenvalues, which are rounding, taken as 0."""
    values, vectors = torch.linalg.eigh(moment)
    result: Tensor = vectors * values.clamp_min(0).sqrt()
    return result
