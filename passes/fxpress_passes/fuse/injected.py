"""W, P ==> W + B A + (C D) * P, whose four thin factors are trained and which is a plain tensor again in the end."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Injected:
    """A weight that takes up another, P, which stays as it is (FuseGPT, Pang et al. 2024, eq. 5).

    B and C begin at zero, so that training begins at W.

    Args:
        weight, other: W and P, of one shape [rows, ...], seen as matrices [rows, columns].
        rank: of C [rows, rank] and D [rank, columns]; 0 injects nothing.
        lora_rank: of B and A; 0 for none.
        generator: draws A and D, uniform within 1 / sqrt(columns).

    Attributes:
        leaves: what the optimiser moves.
    """

    def __init__(self, weight: Tensor, other: Tensor, rank: int, lora_rank: int, generator: torch.Generator) -> None:
        self._old, self._other = weight.detach(), other.detach()
        rows, columns = len(weight), weight[0].numel()

        def pair(size: int) -> tuple[Tensor, Tensor]:
            bound = 1 / math.sqrt(columns)
            drawn = torch.empty(size, columns, dtype=weight.dtype).uniform_(-bound, bound, generator=generator)
            return torch.zeros(rows, size, dtype=weight.dtype, requires_grad=True), drawn.requires_grad_()

        self._scale, self._added = (pair(size) if size else None for size in (rank, lora_rank))
        self.leaves = [leaf for factors in (self._scale, self._added) if factors is not None for leaf in factors]

    def value(self) -> Tensor:
        """The tensor, differentiable in the leaves."""
        found = self._old
        if self._added is not None:
            found = found + (self._added[0] @ self._added[1]).reshape(found.shape)
        if self._scale is not None:
            found = found + (self._scale[0] @ self._scale[1]).reshape(found.shape) * self._other
        return found


class Free:
    """A bias, which is trained as it is."""

    def __init__(self, bias: Tensor) -> None:
        self.leaves = [bias.detach().clone().requires_grad_()]

    def value(self) -> Tensor:
        """The leaf itself."""
        return self.leaves[0]
