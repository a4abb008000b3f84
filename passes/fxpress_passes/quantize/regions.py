"""Windows along rows and columns ==> a grid of regions; the windows of one are equal, evenly spaced and share a divisor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .recognized import Region, Window


@dataclass(frozen=True)
class Span:
    """A window along one axis: [start, end), which may lie over padding, and how many elements it counts."""

    start: int
    end: int
    count: int


Run = list[Span]
"""Neighbouring windows of equal width and count at equal distances."""


def sliding(size: int, out: int, kernel: int, stride: int, padding: int, *, counts_padding: bool) -> list[Span]:
    """The `out` windows of ``avg_pool2d`` over `size` elements.

    With `counts_padding` (``count_include_pad``) they count the padding too; what lies beyond it (``ceil_mode``) never
    counts (torch, ``aten/src/ATen/native/cpu/AvgPoolKernel.cpp``).
    """
    low, high = (-padding, size + padding) if counts_padding else (0, size)
    starts = [i * stride - padding for i in range(out)]
    return [Span(start, start + kernel, min(start + kernel, high) - max(start, low)) for start in starts]


def adaptive(size: int, out: int) -> list[Span]:
    """The windows of ``adaptive_avg_pool2d``: [floor(i * size / out), ceil((i + 1) * size / out))."""
    bounds = [(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]
    return [Span(start, end, end - start) for start, end in bounds]


def runs(spans: Sequence[Span]) -> list[Run]:
    """As few runs as there can be: a part of a run is a run, so none is saved by ending one early."""
    found: list[Run] = []
    for span in spans:
        if found and _continues(found[-1], span):
            found[-1].append(span)
        else:
            found.append([span])
    return found


def _continues(run: Run, span: Span) -> bool:
    last, step = run[-1], span.start - run[-1].start
    if (span.end - span.start, span.count) != (last.end - last.start, last.count):
        return False
    return step > 0 and (len(run) == 1 or step == last.start - run[-2].start)


def regions(rows: Sequence[Run], columns: Sequence[Run], size: tuple[int, int]) -> tuple[tuple[Region, ...], ...]:
    """Runs of rows, from the top, by runs of columns, from the left, over an image of `size`."""
    down, across = [_read(run, size[0]) for run in rows], [_read(run, size[1]) for run in columns]
    return tuple(tuple(_region(row, column) for column in across) for row in down)


def frequent_divisor(rows: Sequence[Run], columns: Sequence[Run]) -> int:
    """The divisor of the most windows; of several, the first."""
    windows = Counter[int]()
    for row in rows:
        for column in columns:
            windows[row[0].count * column[0].count] += len(row) * len(column)
    return windows.most_common(1)[0][0]


@dataclass(frozen=True)
class _Reading:
    """One run: the elements [start, end) that it reads, and its windows over them."""

    bounds: tuple[int, int]
    kernel: int
    stride: int
    padding: tuple[int, int]
    count: int


def _read(run: Run, size: int) -> _Reading:
    """A lone window is as wide as what it sees, and its stride leaves no room for another; of several, some may see less."""
    if len(run) == 1:
        start, end = max(run[0].start, 0), min(run[0].end, size)
        return _Reading((start, end), end - start, size, (0, 0), run[0].count)
    start, end = run[0].start, run[-1].end
    padding = (max(-start, 0), max(end - size, 0))
    return _Reading((max(start, 0), min(end, size)), run[0].end - start, run[1].start - start, padding, run[0].count)


def _region(row: _Reading, column: _Reading) -> Region:
    padding = (row.padding[0], column.padding[0], row.padding[1], column.padding[1])
    window = Window((row.kernel, column.kernel), (row.stride, column.stride), padding)
    return Region(row.bounds, column.bounds, window, row.count * column.count)
