"""A weight ==> whether it is an orthonormal Hadamard matrix, which integers of any width hold exactly."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK_LIMIT = 128
"""Most rows of one that stands as a layer of its own: over 16-bit values its sums stay below 2**30."""


def is_hadamard(weight: Tensor) -> bool:
    """[n, n], 2 <= n <= `BLOCK_LIMIT`, rows orthonormal, entries alike in magnitude: up to float32 noise."""
    if weight.dim() != 2 or weight.shape[0] != weight.shape[1] or not 2 <= len(weight) <= BLOCK_LIMIT:
        return False
    values = weight.detach().double()
    magnitude = len(values) ** -0.5
    alike = bool(((values.abs() - magnitude).abs() < 1e-6 * magnitude).all())
    return alike and bool(((values @ values.T - torch.eye(len(values), dtype=torch.float64)).abs() < 1e-5).all())
