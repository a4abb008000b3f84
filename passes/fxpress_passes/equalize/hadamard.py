"""n ==> an orthonormal matrix of n rows, Hadamard blocks along its diagonal, whose products spread what one channel has over many."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def block_size(width: int, most: int | None = None) -> int:
    """The largest power of two that divides `width`, no more than `most`."""
    block = width & -width
    return block if most is None else min(block, 1 << most.bit_length() - 1)


def hadamard(block: int, generator: torch.Generator) -> Tensor:
    """An orthonormal Hadamard matrix (Sylvester's), its columns' signs drawn: float64 [block, block], `block` a power of two.

    Without the signs the first row would add up what all channels have in common (QuaRot, Ashkboos et al. 2024, section 3).
    """
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < block:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    signs = torch.randint(0, 2, (block,), generator=generator).double() * 2 - 1
    return matrix * signs / math.sqrt(block)


def blocks(part: Tensor, width: int) -> Tensor:
    """`part` along the diagonal of a matrix of `width` rows."""
    return torch.kron(torch.eye(width // len(part), dtype=part.dtype), part)
