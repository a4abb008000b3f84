"""Sizes of windows as ATen writes them ==> (height, width)."""

from __future__ import annotations

from typing import Any

from torch import fx


def pair(value: Any, default: tuple[int, int] = (1, 1)) -> tuple[int, int]:
    """An int, a list of one or two, or nothing, as (height, width)."""
    if isinstance(value, int):
        return value, value
    return (value[0], value[-1]) if value else default


def around(padding: tuple[int, int]) -> tuple[int, int, int, int]:
    """The same padding on both ends: (top, left, bottom, right)."""
    return (*padding, *padding)


def spatial(node: fx.Node) -> tuple[int, int] | None:
    """Height and width of a 4-dimensional value, None where they are symbolic."""
    shape = node.meta["val"].shape
    static = len(shape) == 4 and isinstance(shape[2], int) and isinstance(shape[3], int)
    return (shape[2], shape[3]) if static else None
