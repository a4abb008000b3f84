"""Runs are few, regions cover every window once, and each window of a region is one of torch's."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from fxpress_passes.quantize.recognized import Region, Window
from fxpress_passes.quantize.regions import Span, adaptive, frequent_divisor, regions, runs, sliding
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("counts_padding", "expected"),
    [
        (True, [Span(-1, 3, 4), Span(2, 6, 4), Span(5, 9, 3)]),
        (False, [Span(-1, 3, 3), Span(2, 6, 4), Span(5, 9, 2)]),
    ],
)
def test_windows_count_padding_or_not_and_nothing_beyond_it(counts_padding: bool, expected: list[Span]) -> None:
    assert sliding(7, 3, 4, 3, 1, counts_padding=counts_padding) == expected


def test_adaptive_windows_overlap_or_repeat() -> None:
    assert adaptive(5, 3) == [Span(0, 2, 2), Span(1, 4, 3), Span(3, 5, 2)]
    assert adaptive(2, 4) == [Span(0, 1, 1), Span(0, 1, 1), Span(1, 2, 1), Span(1, 2, 1)]


@pytest.mark.parametrize(
    ("spans", "lengths"),
    [
        ([Span(0, 2, 2)], [1]),
        ([Span(0, 2, 2), Span(3, 5, 2), Span(6, 8, 2)], [3]),
        ([Span(0, 2, 2), Span(3, 5, 2), Span(5, 7, 2)], [2, 1]),
        ([Span(0, 2, 2), Span(0, 2, 2), Span(1, 3, 2)], [1, 2]),
        ([Span(0, 2, 2), Span(2, 5, 3), Span(5, 7, 2)], [1, 1, 1]),
        ([Span(-1, 2, 2), Span(0, 3, 3), Span(1, 4, 3), Span(2, 5, 2)], [1, 2, 1]),
    ],
)
def test_a_run_ends_where_width_count_or_distance_changes(spans: list[Span], lengths: list[int]) -> None:
    assert [len(run) for run in runs(spans)] == lengths
    assert [span for run in runs(spans) for span in run] == spans


def _is_run(spans: list[Span]) -> bool:
    steps = {b.start - a.start for a, b in pairwise(spans)}
    return len({(span.end - span.start, span.count) for span in spans}) == 1 and len(steps) <= 1 and 0 not in steps


def _fewest(spans: list[Span]) -> int:
    """The number of runs by trying every end of the last one."""
    best = [0]
    for end in range(1, len(spans) + 1):
        best.append(1 + min(best[start] for start in range(end) if _is_run(spans[start:end])))
    return best[-1]


sizes = st.integers(1, 12)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(sizes, sizes)
def test_runs_are_as_few_as_there_can_be(size: int, out: int) -> None:
    spans = adaptive(size, out)
    found = runs(spans)
    assert all(map(_is_run, found))
    assert len(found) == _fewest(spans)


def test_a_lone_window_is_cut_to_what_it_sees_and_several_are_padded() -> None:
    rows, columns = runs(sliding(5, 2, 3, 3, 1, counts_padding=False)), runs(sliding(6, 3, 3, 2, 1, counts_padding=True))
    assert [len(run) for run in rows] == [1, 1]
    assert regions(rows, columns, (5, 6)) == (
        (Region((0, 2), (0, 6), Window((2, 3), (5, 2), (0, 1, 0, 0)), 6),),
        (Region((2, 5), (0, 6), Window((3, 3), (5, 2), (0, 1, 0, 0)), 9),),
    )


def _windows(bounds: tuple[int, int], kernel: int, stride: int, before: int, after: int) -> list[tuple[int, int]]:
    """What the windows of a padded slice see, as the integer operator slides them."""
    starts = range(bounds[0] - before, bounds[1] + after - kernel + 1, stride)
    return [(max(start, bounds[0]), min(start + kernel, bounds[1])) for start in starts]


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.tuples(sizes, sizes), st.tuples(sizes, sizes))
def test_regions_have_every_window_once_and_in_order(size: tuple[int, int], out: tuple[int, int]) -> None:
    spans = [adaptive(size[d], out[d]) for d in (0, 1)]
    grid = regions(runs(spans[0]), runs(spans[1]), size)
    heights, widths, divisors = [], [], Counter[int]()
    for row in grid:
        assert len({(region.rows, region.window.kernel[0], region.window.stride[0]) for region in row}) == 1
        for region in row:
            top, left, bottom, right = region.window.padding
            down = _windows(region.rows, region.window.kernel[0], region.window.stride[0], top, bottom)
            across = _windows(region.columns, region.window.kernel[1], region.window.stride[1], left, right)
            divisors[region.divisor] += len(down) * len(across)
            assert {(b - a) * (d - c) for a, b in down for c, d in across} == {region.divisor}
            widths += across if row is grid[0] else []
        heights += down
    assert heights == [(span.start, span.end) for span in spans[0]]
    assert widths == [(span.start, span.end) for span in spans[1]]
    assert divisors[frequent_divisor(runs(spans[0]), runs(spans[1]))] == max(divisors.values())


def test_of_several_frequent_divisors_the_first_counts() -> None:
    rows = runs([Span(0, 1, 1)])
    assert frequent_divisor(rows, runs([Span(0, 3, 3), Span(1, 3, 2), Span(2, 4, 2)])) == 2
    assert frequent_divisor(rows, runs([Span(0, 3, 3), Span(1, 3, 2)])) == 3
