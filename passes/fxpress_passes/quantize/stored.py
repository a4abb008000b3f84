"""A grid ==> the type, the bounds and the nearest step of the integers on it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from .scales import Grid


@dataclass(frozen=True)
class Value:
    """An integer value of the new program and the real number that one step of it stands for."""

    node: fx.Node
    grid: Grid


def storage(grid: Grid) -> torch.dtype:
    """s16, u8 or s8."""
    if grid.bits == 16:
        return torch.int16
    return torch.uint8 if grid.qmin == 0 else torch.int8


def clamped(grid: Grid, bounds: tuple[float, float]) -> tuple[int, int]:
    """The integers that a grid and bounds in real numbers leave."""
    return nearest(bounds[0], grid), nearest(bounds[1], grid)


def nearest(real: float, grid: Grid) -> int:
    """The step of a grid nearest to a real number, infinite ones included."""
    return round(min(max(real / grid.scale, grid.qmin), grid.qmax))
