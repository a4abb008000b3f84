"""weight, bits ==> the weight as it is read back from so many bits; input ==> the same: what a precision alone costs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..evidence import Range
from .scales import activation_grid


def rounded_weight(weight: Tensor, bits: int, axis: int) -> Tensor:
    """Symmetric for each channel along `axis`, at max\\|w\\| / (2**(bits - 1) - 1); `snap_weight`'s scale is within its snapping."""
    most = (1 << (bits - 1)) - 1
    flat = weight.detach().transpose(0, axis)
    scale = (flat.flatten(1).abs().amax(1) / most).clamp_min(torch.finfo(weight.dtype).tiny)
    scale = scale.reshape(-1, *[1] * (weight.dim() - 1))
    return (torch.round(flat / scale).clamp_(-most, most) * scale).transpose(0, axis).contiguous()


def rounds_input(seen: Range, bits: int) -> Callable[[Tensor], Tensor]:
    """Rounds a layer's input to the grid of its range."""
    grid = activation_grid(seen.low, seen.high, unsigned=seen.low >= 0, bits=bits)

    def rounds(x: Tensor) -> Tensor:
        return torch.round(x / grid.scale).clamp_(grid.qmin, grid.qmax) * grid.scale

    return rounds
