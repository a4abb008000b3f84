"""A tensor of a program ==> leaves that are trained and what the tensor is of them; zeros of a mask stay zeros."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor


class Trainable(Protocol):
    """One tensor of a program while it is trained.

    Attributes:
        leaves: what the optimiser moves, by name.
    """

    leaves: dict[str, Tensor]

    def value(self) -> Tensor:
        """The tensor, differentiable in the leaves."""

    def merged(self) -> Tensor:
        """The tensor, without gradients, zero exactly where the mask is."""


class Dense:
    """The tensor itself, under a mask where it has one.

    Args:
        mask: True where it may be other than zero; None for a tensor that is trained whole. It may be exchanged for another
            (gradual pruning): what a mask hides stays as it was, and may come back.
    """

    def __init__(self, tensor: Tensor, mask: Tensor | None = None) -> None:
        self._old, self.mask = tensor.detach(), mask
        self.leaves = {"value": tensor.detach().clone().contiguous().requires_grad_()}

    def value(self) -> Tensor:
        leaf = self.leaves["value"]
        return leaf if self.mask is None else leaf * self.mask

    def merged(self) -> Tensor:
        leaf = self.leaves["value"].detach().clone()
        return leaf if self.mask is None else _under(leaf, self._old, self.mask)


class MaskLora:
    """W + s (B A) * (W != 0): two thin factors, merged at the end (PERP, Zimmer et al. 2023, MaskLoRA).

    Args:
        tensor: [rows, ...], seen as a matrix [rows, columns].
        rank: of B [rows, rank], which begins at zero, and A [rank, columns].
        scale: s.
    """

    def __init__(self, tensor: Tensor, rank: int, scale: float, generator: torch.Generator) -> None:
        self._old, self.mask, self._scale = tensor.detach(), tensor.detach() != 0, scale
        columns, bound = tensor[0].numel(), 1 / math.sqrt(tensor[0].numel())
        a = torch.empty(rank, columns, dtype=tensor.dtype).uniform_(-bound, bound, generator=generator)
        self.leaves = {"a": a.requires_grad_(), "b": torch.zeros(len(tensor), rank, dtype=tensor.dtype, requires_grad=True)}

    def value(self) -> Tensor:
        change = (self.leaves["b"] @ self.leaves["a"]).reshape(self._old.shape)
        return self._old + self._scale * change * self.mask

    def merged(self) -> Tensor:
        return _under(self.value().detach(), self._old, self.mask)


def _under(new: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    """`new` where the mask is True, `old` where that would be a zero that the mask does not know, zero elsewhere (never -0)."""
    return torch.where(mask, torch.where(new == 0, old, new), torch.zeros((), dtype=new.dtype))
