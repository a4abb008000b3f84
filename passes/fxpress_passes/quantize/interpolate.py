"""Upsampling by whole factors ==> rows and columns by index, and a triangle filter of integers over them.

Bilinear interpolation by f (align_corners=False) is nearest upsampling by f, its border replicated, filtered along each
axis by a box that is f wide: [1] * f / f for odd f, and [1, 2, ..., 2, 1] / 2f for even f, whose centre lies between
pixels. For f = 2: [1, 2, 1] / 4 over a, a, b, b gives (3a + b) / 4 and (a + 3b) / 4.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from .recognized import Recognized
from .windows import spatial


def _factors(node: fx.Node, named: dict[str, Any]) -> tuple[int, int] | str:
    size, out = spatial(named["input"]), spatial(node)
    if size is None or out is None:
        return "its height or width is not static"
    factors = (out[0] // size[0], out[1] // size[1])
    asked = named["scale_factors"] or factors
    if (size[0] * factors[0], size[1] * factors[1]) != out or tuple(map(float, asked)) != tuple(map(float, factors)):
        return f"it scales {size[0]}x{size[1]} to {out[0]}x{out[1]}, by no whole factors"
    return factors


def nearest(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    """``aten.upsample_nearest2d``."""
    factors = _factors(node, named)
    if isinstance(factors, str):
        return factors
    rows, columns = (tuple(i // f for i in range(size)) for size, f in zip(node.meta["val"].shape[2:], factors, strict=True))
    return Recognized("select", (named["input"],), rows=rows, columns=columns)


def bilinear(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    """``aten.upsample_bilinear2d`` without aligned corners."""
    factors = _factors(node, named)
    if isinstance(factors, str):
        return factors
    if named["align_corners"]:
        return "it aligns corners, so its weights differ from pixel to pixel"
    kernel = (_box(factors[0]), _box(factors[1]))
    places = []
    for out, f in zip(node.meta["val"].shape[2:], factors, strict=True):
        border = f // 2
        places.append(tuple(min(max(i, 0), out - 1) // f for i in range(-border, out + border)))
    divisor = sum(kernel[0]) * sum(kernel[1])
    return Recognized("interpolate", (named["input"],), kernel=kernel, divisor=divisor, rows=places[0], columns=places[1])


def _box(factor: int) -> tuple[int, ...]:
    return (1,) * factor if factor % 2 else (1, *[2] * (factor - 1), 1)
