"""Pools of ATen ==> an average or a maximum over windows."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import Any

from torch import fx

from .recognized import Recognized, Window
from .regions import Span, adaptive, frequent_divisor, regions, runs, sliding
from .windows import around, pair, spatial

REGION_LIMIT = 64
"""The most regions that an average may fall into: each is a few operators."""

_SYMBOLIC = "its input's height or width is not static"


def avg_pool2d(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    """``aten.avg_pool2d``: whole windows, or regions of equal ones at the edges (``ceil_mode``, ``count_include_pad=False``)."""
    kernel, padding = pair(named["kernel_size"]), pair(named["padding"], (0, 0))
    stride, size, divisor = pair(named["stride"], kernel), spatial(named["self"]), named["divisor_override"]
    if divisor is not None and divisor < 0:
        return f"its divisor {divisor} is negative"
    if not named["ceil_mode"] and (named["count_include_pad"] or divisor or not any(padding)):
        window = Window(kernel, stride, around(padding))
        return Recognized("average", (named["self"],), window=window, divisor=divisor or kernel[0] * kernel[1])
    if size is None:
        return f"{_SYMBOLIC} ({'ceil_mode' if named['ceil_mode'] else 'count_include_pad=False'})"
    out, counts = node.meta["val"].shape[2:], named["count_include_pad"]
    rows, columns = (sliding(size[d], out[d], kernel[d], stride[d], padding[d], counts_padding=counts) for d in (0, 1))
    return _average(named["self"], size, (rows, columns), divisor)


def adaptive_avg_pool2d(node: fx.Node, named: dict[str, Any]) -> Recognized | str:
    """``aten.adaptive_avg_pool2d``: one window that repeats, or regions of equal ones."""
    size, out = spatial(named["self"]), spatial(node)
    if size is None:
        return _SYMBOLIC
    if out is None:
        return "its output's height or width is not static"
    if 0 in out:
        return "its output is empty"
    return _average(named["self"], size, (adaptive(size[0], out[0]), adaptive(size[1], out[1])))


def _average(source: fx.Node, size: tuple[int, int], spans: tuple[list[Span], list[Span]], divisor: int | None = None) -> Recognized | str:
    """An average over windows along rows and columns; `divisor` is that of all, where there is one."""
    if divisor:
        spans = [replace(span, count=divisor) for span in spans[0]], [replace(span, count=1) for span in spans[1]]
    rows, columns = map(runs, spans)
    count = len(rows) * len(columns)
    if count > REGION_LIMIT:
        return f"its windows fall into {count} regions of equal ones, more than {REGION_LIMIT}"
    grid, most = regions(rows, columns, size), frequent_divisor(rows, columns)
    largest = max((region.window for region in chain(*grid)), key=lambda window: window.kernel[0] * window.kernel[1])
    return Recognized("average", (source,), window=largest, divisor=most, regions=grid if count > 1 else ())


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
