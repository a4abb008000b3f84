"""Histograms of batches merge to that of their union, in any order; methods read the ranges off them that brute force finds."""

from __future__ import annotations

import math
from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
import torch
from fxpress_passes.evidence import Histogram, Range
from fxpress_passes.evidence.histogram import BINS, LEAST, LEVELS, divergence
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

values = st.floats(width=32, allow_nan=False, allow_infinity=False)
edges = st.builds(lambda steps, exponent: math.ldexp(steps, exponent), st.integers(-(2**23), 2**23), st.integers(-40, 20))
"""Values on the edges of bins and beside them."""
batches = st.lists(st.lists(values | edges, min_size=1, max_size=8), min_size=1, max_size=5)


def _of(batch: list[float]) -> Histogram:
    return Histogram.of(torch.tensor(batch))


def _same(one: Histogram, two: Histogram) -> bool:
    return np.array_equal(one.counts, two.counts) and (one.reach, one.seen) == (two.reach, two.seen)


@given(batches, st.randoms())
@example([[1.0], [1.5, -1e-10, 2.0], [0.9999999, -1.0]], None)
@example([[0.0], [1e-38, -1e-45], [3e38]], None)
def test_batches_merge_to_the_union_exactly_in_any_order(data: list[list[float]], order: object) -> None:
    union = _of([value for batch in data for value in batch])
    assert _same(reduce(Histogram.merge, map(_of, data)), union)
    if order is not None:
        order.shuffle(data)  # type: ignore[attr-defined]
    assert _same(reduce(lambda found, batch: _of(batch).merge(found), data[1:], _of(data[0])), union)


@given(batches)
def test_nothing_is_lost_and_nothing_grows(data: list[list[float]]) -> None:
    found = reduce(Histogram.merge, map(_of, data))
    assert found.counts.shape == (BINS,)
    assert found.counts.dtype == np.int64
    assert found.counts.sum() == sum(map(len, data))
    flat = torch.tensor([value for batch in data for value in batch])
    assert found.seen == Range(float(flat.min()), float(flat.max()))


@given(st.lists(values | edges, min_size=1, max_size=20))
def test_reach_is_the_power_of_two_above_every_magnitude(batch: list[float]) -> None:
    found, most = _of(batch), max(abs(value) for value in torch.tensor(batch).tolist())
    assert math.frexp(found.reach)[0] == 0.5
    assert most < found.reach
    assert found.reach / 2 <= max(most, LEAST)


def test_every_value_is_in_the_bin_that_holds_it() -> None:
    found = _of([-1.0, -0.75, 0.0, 0.25, 1.0, 1.9999999])
    assert found.reach == 2.0
    assert np.flatnonzero(found.counts).tolist() == [1024, 1280, 2048, 2304, 3072, 4095]


def test_twice_the_reach_adds_up_pairs_of_bins() -> None:
    found = _of([0.999, -0.999]).merge(_of([1.5]))
    assert found.reach == 2.0
    assert np.flatnonzero(found.counts).tolist() == [1025, 3070, 3584]


def test_more_values_than_are_counted_at_once_and_more_than_float32_counts() -> None:
    """A histogram in float32 stops at 2**24 values in a bin."""
    count = (1 << 24) + 1001
    found = Histogram.of(torch.ones(1).expand(count))
    assert found.counts.max() == found.counts.sum() == count


def _drawn(name: str) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    normal = torch.randn(200_000, generator=generator)
    return {
        "normal": normal,
        "rectified": normal.clamp_min(0),
        "uniform": torch.rand(200_000, generator=generator) * 3 - 1,
        "laplace": normal.sign() * torch.rand(200_000, generator=generator).log().neg(),
        "outliers": torch.cat([normal, torch.tensor([90.0, -70.0, 80.0])]),
    }[name]


DRAWN = ("normal", "rectified", "uniform", "laplace", "outliers")


@pytest.mark.parametrize("name", DRAWN)
def test_minmax_is_what_was_seen(name: str) -> None:
    data = _drawn(name)
    assert Histogram.of(data).range("minmax") == Range(float(data.min()), float(data.max()))


@pytest.mark.parametrize("share", [90.0, 99.0, 99.9, 100.0])
@pytest.mark.parametrize("name", DRAWN)
def test_a_percentile_holds_its_share_of_the_values_and_no_bin_more(name: str, share: float) -> None:
    data = _drawn(name)
    histogram = Histogram.of(data)
    found, bin_width = histogram.range("percentile", share), 2 * histogram.reach / BINS
    magnitudes = np.sort(data.abs().double().numpy())
    exact = float(magnitudes[min(math.ceil(share / 100 * len(data)), len(data)) - 1])
    reach = max(abs(found.low), abs(found.high))
    assert exact <= reach + 1e-12
    assert reach <= exact + bin_width * (1 + 1e-9)
    assert found.low >= histogram.seen.low
    assert found.high <= histogram.seen.high


def _error(data: NDArray[np.float64], reach: float, signed: bool) -> float:
    levels = 127 if signed else 255
    step = reach / levels
    return float((np.square(np.clip(np.rint(data / step), -levels if signed else 0, levels) * step - data)).mean())


@pytest.mark.parametrize("name", DRAWN)
def test_the_mse_clip_is_near_the_best_that_brute_force_finds_on_the_values(name: str) -> None:
    data = _drawn(name).double().numpy()
    signed = float(data.min()) < 0
    found = Histogram.of(torch.from_numpy(data)).range("mse")
    reach, most = max(abs(found.low), abs(found.high)), float(np.abs(data).max())
    best = min(_error(data, share * most, signed) for share in np.linspace(0.02, 1.0, 200))
    allowed = 1.35 if name == "outliers" else 1.02  # bins of a 32nd there: the best clip is below a tenth of the largest value
    assert _error(data, reach, signed) <= allowed * max(best, _error(data, 0.1 * most, signed) if name == "outliers" else best)
    assert name not in ("normal", "laplace", "outliers") or reach < most


@pytest.mark.parametrize("name", DRAWN)
def test_the_entropy_clip_is_near_the_least_divergence_of_all_clips(name: str) -> None:
    histogram = Histogram.of(_drawn(name))
    found = histogram.range("entropy")
    half = BINS // 2
    magnitudes = (histogram.counts[half:] + histogram.counts[:half][::-1]).astype(np.float64)
    magnitudes[0] = magnitudes[1]
    last = int(np.flatnonzero(magnitudes)[-1]) + 1
    every = {count: divergence(magnitudes, count) for count in range(LEVELS, last + 1)}
    chosen = min(last, math.ceil(max(abs(found.low), abs(found.high)) / (histogram.reach / half)))
    assert every[chosen] <= min(every.values()) * 1.1 + 1e-6


def test_zeros_do_not_move_the_entropy_clip() -> None:
    """Half of a rectifier's values are zero, and zero is on every grid."""
    data = _drawn("rectified")
    some, more = (Histogram.of(torch.cat([data, torch.zeros(count)])).range("entropy") for count in (0, 10**6))
    assert some == more
    assert some.high > 3.5


def test_divergence_is_that_of_its_definition() -> None:
    """Written down again, bin by bin, on 300 bins of 400."""
    magnitudes = np.random.default_rng(3).integers(0, 9, 400).astype(np.float64)
    magnitudes[20:60] = 0
    count = 300
    p = magnitudes[:count].copy()
    p[-1] += magnitudes[count:].sum()
    q = np.zeros(count)
    bounds = [math.floor(count * level / LEVELS + 1e-9) for level in range(LEVELS + 1)]
    for start, end in pairwise(bounds):
        full = [i for i in range(start, end) if magnitudes[i]]
        for i in full:
            q[i] = magnitudes[start:end].sum() / len(full)
    p, q = p / p.sum(), q / q.sum()
    expected = sum(a * math.log(a / max(b, 1e-12)) for a, b in zip(p, q, strict=True) if a)
    assert divergence(magnitudes, count) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "entropy"])
@pytest.mark.parametrize("data", [[0.0], [3.0, 3.0], [-1e-30, 1e-30], [5.0, 6.0]])
def test_any_values_have_a_range_within_what_was_seen(method: str, data: list[float]) -> None:
    histogram = _of(data)
    found = histogram.range(method)
    assert histogram.seen.low <= found.low <= found.high <= histogram.seen.high
