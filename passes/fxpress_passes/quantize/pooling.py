"""Pools of ATen ==> an average or a maximum over windows."""

from __future__ import annotations

from typing import Any

from torch import fx

from .recognized import Recognized, Window
from .windows import around, pair, spatial

_SYMBOLIC = "its input's height or width is not static"


def avg_pool2d(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    """``aten.avg_pool2d`` with whole windows."""
    kernel, padding = pair(named["kernel_size"]), pair(named["padding"], (0, 0))
    stride, size = pair(named["stride"], kernel), spatial(named["self"])
    if named["ceil_mode"] and (size is None or any((size[d] + 2 * padding[d] - kernel[d]) % stride[d] for d in (0, 1))):
        return "its last windows may be smaller (ceil_mode)"
    if any(padding) and not named["count_include_pad"]:
        return "its divisor differs at the edges (count_include_pad=False)"
    window = Window(kernel, stride, around(padding))
    return Recognized("average", (named["self"],), window=window, divisor=named["divisor_override"] or kernel[0] * kernel[1])


def adaptive_avg_pool2d(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    """``aten.adaptive_avg_pool2d`` where the output divides the input."""
    size, out = spatial(named["self"]), pair(named["output_size"])
    if size is None:
        return _SYMBOLIC
    if size[0] % out[0] or size[1] % out[1]:
        return f"{size[0]}x{size[1]} does not divide into {out[0]}x{out[1]} windows"
    kernel = (size[0] // out[0], size[1] // out[1])
    return Recognized("average", (named["self"],), window=Window(kernel, kernel), divisor=kernel[0] * kernel[1])


def mean(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    """``aten.mean`` over height and width."""
    size = spatial(named["self"])
    if size is None or sorted(d % 4 for d in named["dim"] or []) != [2, 3]:
        return "it does not average over a static height and width"
    return Recognized("average", (named["self"],), window=Window(size, size), divisor=size[0] * size[1], keeps_rank=named["keepdim"])


def max_pool2d(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    """``aten.max_pool2d``; ceil mode becomes padding below and to the right that makes floor mode see the same windows."""
    kernel = pair(named["kernel_size"])
    stride, padding, dilation = pair(named["stride"], kernel), pair(named["padding"], (0, 0)), pair(named["dilation"])
    size, out = spatial(named["self"]), node.meta["val"].shape[2:]
    if not named["ceil_mode"]:
        return Recognized("maximum", (named["self"],), window=Window(kernel, stride, around(padding), dilation))
    if size is None:
        return f"{_SYMBOLIC} (ceil_mode)"
    reach = [(out[d] - 1) * stride[d] + dilation[d] * (kernel[d] - 1) + 1 - size[d] - padding[d] for d in (0, 1)]
    padded = (*padding, max(0, reach[0]), max(0, reach[1]))
    return Recognized("maximum", (named["self"],), window=Window(kernel, stride, padded, dilation))
