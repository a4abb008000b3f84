"""Snapped scales make every ratio exactly b / 2**c, in range, and cost next to nothing in weight error."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fxpress_ir.dyadic import MULTIPLIER_LIMIT, shift_for
from fxpress_ir.errors import ProgramError
from fxpress_passes.quantize.scales import (
    BIAS_LIMIT,
    PRODUCT_LIMIT,
    Grid,
    Snapped,
    activation_grid,
    reach_limit,
    shift_limit,
    snap_output,
    snap_sum,
    snap_weight,
    tied_scales,
)
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

NOISE = 1e-12
"""Relative float64 noise of a quotient of three factors; a step of b is 2**-15 at least."""

powers = st.floats(-20, 6).map(lambda exponent: float(np.float32(2.0**exponent)))
seeds = st.integers(0, 2**32 - 1)
grids = st.builds(Grid, powers, st.just(-128), st.just(127)) | st.builds(Grid, powers, st.just(-(2**15)), st.just(2**15 - 1))
float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)


def source(scale: float) -> Grid:
    """The grid of a layer's input."""
    return Grid(scale, -128, 127)


def _weight(seed: int, spread: float = 4.0) -> Tensor:
    """[6, 20] with channels of very different size and a zero channel."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 20, generator=generator) * torch.exp2(spread * torch.randn(6, 1, generator=generator))
    weight[3] = 0
    return weight


def _natural(weight: Tensor, bits: int = 8) -> Tensor:
    """The usual max-abs scales, float64."""
    return weight.double().abs().amax(1) / ((1 << (bits - 1)) - 1)


def _check_dyadic(snapped: Snapped, s_x: float, s_y: float, limit: int) -> None:
    assert 1 <= snapped.c <= limit
    for scale, b in zip(snapped.scales, snapped.b, strict=True):
        assert 1 <= b < MULTIPLIER_LIMIT
        assert s_x * scale / s_y == pytest.approx(b / 2**snapped.c, rel=NOISE)


@given(seeds, powers, grids, st.sampled_from([8, 4, 2]), st.booleans())
def test_weight_scales_are_dyadic_exactly(seed: int, s_x: float, target: Grid, bits: int, with_bias: bool) -> None:
    weight = _weight(seed)
    largest = float((_natural(weight, bits) * s_x / target.scale).max())
    assume(largest < 2**14 - 1)
    bias = torch.randn(6, generator=torch.Generator().manual_seed(seed)) * target.scale * 300 if with_bias else None
    snapped = snap_weight(weight, bias, source(s_x), target, bits=bits)
    limit = 15 if target.bits == 16 else 16
    _check_dyadic(snapped, s_x, target.scale, limit)
    assert snapped.c == shift_for(max(largest, 2.0**-40), limit=limit)


@given(seeds, powers, grids)
def test_multipliers_can_be_read_back_from_the_scales(seed: int, s_x: float, target: Grid) -> None:
    weight = _weight(seed)
    assume(float((_natural(weight) * s_x / target.scale).max()) < 2**14 - 1)
    snapped = snap_weight(weight, None, source(s_x), target)
    c = shift_for(max(snapped.b) / 2**snapped.c, limit=15 if target.bits == 16 else 16)
    assert c >= snapped.c
    assert max(snapped.b) << (c - snapped.c) < MULTIPLIER_LIMIT


def _error(weight: Tensor, scales: Tensor, most: int = 127) -> Tensor:
    """Squared error of each channel after quantisation with these scales."""
    steps = (weight.double() / scales[:, None]).round().clamp(-most, most)
    return (steps * scales[:, None] - weight.double()).square().sum(1)


@pytest.mark.parametrize("exponent", range(-12, 3))
def test_snapping_costs_next_to_no_weight_error(exponent: int) -> None:
    """From M = 2**-12 up, where b has 4 bits (dyadic.md 1.4); normal weights, 256 a channel."""
    generator = torch.Generator().manual_seed(exponent + 100)
    weight = torch.randn(200, 256, generator=generator)
    natural = _natural(weight)
    target = Grid(float(natural.median()) / 2.0**exponent, -128, 127)
    ratio = _error(weight, torch.tensor(snap_weight(weight, None, source(1.0), target).scales, dtype=torch.float64)) / _error(
        weight, natural
    )
    assert float(ratio.mean()) < 1.08
    assert float(ratio.quantile(0.95)) < 1.25


@pytest.mark.parametrize("exponent", [-9, -12, -14])
def test_the_neighbour_with_the_smaller_weight_error_is_taken(exponent: int) -> None:
    weight = torch.randn(50, 30)
    target = Grid(float(_natural(weight).median()) / 2.0**exponent, -128, 127)
    snapped = snap_weight(weight, None, source(1.0), target)
    unit = target.scale / 2**snapped.c
    found = _error(weight, torch.tensor(snapped.scales, dtype=torch.float64))
    exact = _natural(weight) / unit
    for b in (exact.floor(), exact.ceil()):
        assert bool((found <= _error(weight, b * unit) * (1 + NOISE)).all())
    assert all(b in (math.floor(e), math.ceil(e)) for b, e in zip(snapped.b, exact.tolist(), strict=True))


@given(seeds, powers, grids, st.floats(0, 40))
def test_a_huge_bias_stays_within_half_of_the_accumulator(seed: int, s_x: float, target: Grid, exponent: float) -> None:
    weight = _weight(seed, spread=1.0)
    assume(float((_natural(weight) * s_x / target.scale).max()) < 2**14 - 1)
    bias = torch.randn(6, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent * target.scale
    snapped = snap_weight(weight, bias, source(s_x), target)
    _check_dyadic(snapped, s_x, target.scale, 16)
    steps = bias.double().abs() / (s_x * torch.tensor(snapped.scales, dtype=torch.float64))
    reachable = bias.double().abs() * 2.0**snapped.c / target.scale / BIAS_LIMIT <= MULTIPLIER_LIMIT - 1
    assert bool((steps[reachable] <= BIAS_LIMIT * (1 + NOISE)).all())


def test_only_the_channel_with_the_huge_bias_gets_a_larger_scale() -> None:
    weight, target = torch.ones(3, 4), Grid(2.0**-10, -128, 127)
    plain = snap_weight(weight, torch.zeros(3), source(1.0), target)
    raised = snap_weight(weight, torch.tensor([0.0, 20000 * 2.0**9, 0.0]), source(1.0), target)
    assert raised.c == plain.c
    assert (raised.b[0], raised.b[2]) == (plain.b[0], plain.b[2])
    assert raised.b[1] == 20000 > plain.b[1]  # |bias| / (2**-10 * 20000 / 2**11) == 2**30


@given(seeds, powers, grids, st.sampled_from([8, 4]))
def test_channels_may_lie_along_another_axis(seed: int, s_x: float, target: Grid, bits: int) -> None:
    weight = _weight(seed)
    assume(float((_natural(weight, bits) * s_x / target.scale).max()) < 2**14 - 1)
    plain, turned = (
        snap_weight(weight, None, source(s_x), target, bits=bits),
        snap_weight(weight.T, None, source(s_x), target, bits=bits, axis=1),
    )
    assert (turned.scales, turned.b, turned.c, turned.axis, turned.bits) == (plain.scales, plain.b, plain.c, 1, bits)


def test_a_scale_that_groups_share_takes_the_largest_of_their_biases() -> None:
    """A transposed weight [in, out / groups]: bias 4 belongs to channel 1 of the second group."""
    weight, target = torch.ones(4, 3), Grid(2.0**-10, -128, 127)
    huge = torch.tensor([0.0, 0.0, 0.0, 0.0, 20000 * 2.0**9, 0.0])
    plain, raised = (snap_weight(weight, bias, source(1.0), target, axis=1) for bias in (torch.zeros(6), huge))
    assert (raised.b[0], raised.b[2], raised.c) == (plain.b[0], plain.b[2], plain.c)
    assert raised.b[1] == 20000 > plain.b[1]


@pytest.mark.parametrize(("target", "limit"), [(Grid(0.1, 0, 255), 16), (Grid(0.001, -(2**15), 2**15 - 1), 15)])
def test_a_zero_channel_takes_the_smallest_multiplier(target: Grid, limit: int) -> None:
    weight = torch.tensor([[0.0, 0.0], [1.0, -3.0]])
    snapped = snap_weight(weight, torch.tensor([2.0, 1.0]), source(0.1), target)
    assert snapped.b[0] == 1
    assert snapped.b[1] > 1
    for bias in (None, torch.zeros(2)):
        assert snap_weight(torch.zeros(2, 2), bias, source(0.1), target).b == (1, 1)
        assert snap_weight(torch.zeros(2, 2), bias, source(0.1), target).c == limit


def test_tiny_weights_take_the_smallest_multiplier() -> None:
    snapped = snap_weight(torch.full((2, 3), 1e-30), None, source(0.1), Grid(0.1, -128, 127))
    assert (snapped.b, snapped.c) == ((1, 1), 16)


def test_weights_too_large_for_their_output_are_an_error() -> None:
    weight, target = torch.full((2, 3), 127.0), Grid(1.0, -128, 127)
    assert snap_weight(weight, None, source(2.0**14 - 1), target).c == 1
    with pytest.raises(ProgramError, match=r"multiplier 16384\.0 is outside \(0, 2\^14\); rescale the layer's weights or its input"):
        snap_weight(weight, None, source(2.0**14), target)


@given(powers, grids, st.integers(1, 500))
def test_output_scales_are_dyadic_exactly_and_near_their_target(s_x: float, target: Grid, divisor: int) -> None:
    wanted = s_x / (divisor * target.scale)
    assume(2.0**-13 <= wanted < 2**14 - 1)
    grid = snap_output(s_x, target, divisor=divisor)
    c = shift_for(wanted, limit=shift_limit(target))
    b = round(s_x / (divisor * grid.scale) * 2**c)
    assert 1 <= b < MULTIPLIER_LIMIT
    assert s_x / (divisor * grid.scale) == pytest.approx(b / 2**c, rel=NOISE)
    assert grid.scale == pytest.approx(target.scale, rel=0.5001 / (b - 0.5))  # half a step of b, relative to it
    assert (grid.qmin, grid.qmax) == (target.qmin, target.qmax)


@given(powers, powers, powers)
def test_the_larger_multiplier_of_a_sum_is_dyadic_exactly(s_x: float, s_y: float, scale: float) -> None:
    target = Grid(scale, -128, 127)
    assume(2.0**-13 <= max(s_x, s_y) / scale < 2**14 - 1)
    grid = snap_sum(s_x, s_y, target)
    assert grid == snap_sum(s_y, s_x, target)
    steps = max(s_x, s_y) / grid.scale * 2 ** shift_for(max(s_x, s_y) / scale, limit=15)
    assert steps == pytest.approx(round(steps), rel=NOISE)
    assert 1 <= round(steps) < MULTIPLIER_LIMIT


@given(float32s, float32s, st.booleans(), st.sampled_from([8, 16]))
def test_an_activation_grid_covers_its_range_with_a_float32_scale(one: float, two: float, unsigned: bool, bits: int) -> None:
    low, high = sorted((one, two))
    grid = activation_grid(low, high, unsigned=unsigned, bits=bits)
    assert grid.scale == float(np.float32(grid.scale)) > 0
    assert grid.bits == bits
    reach = max(high, 0.0) if unsigned and bits == 8 else max(abs(low), abs(high))
    assert reach <= grid.qmax * grid.scale * (1 + 2.0**-23)


@pytest.mark.parametrize(
    ("low", "high", "unsigned", "bits", "expected"),
    [
        (0.0, 255.0, True, 8, Grid(1.0, 0, 255)),
        (-3.0, 510.0, True, 8, Grid(2.0, 0, 255)),
        (-254.0, 127.0, False, 8, Grid(2.0, -128, 127)),
        (0.0, 127.0, False, 8, Grid(1.0, -128, 127)),
        (-1.0, 32767.0, False, 16, Grid(2.0, -32768, 32767)),
        (0.0, 0.0, True, 8, Grid(1.0, 0, 255)),
        (-2.0, -1.0, True, 8, Grid(1.0, 0, 255)),
        (-1e-45, 1e-45, False, 8, Grid(1.0, -128, 127)),
    ],
)
def test_grids_of_known_ranges(low: float, high: float, unsigned: bool, bits: int, expected: Grid) -> None:
    assert activation_grid(low, high, unsigned=unsigned, bits=bits) == expected


@pytest.mark.parametrize(
    ("grid", "first", "last"), [(Grid(0.1, -128, 127), -128, 127), (Grid(0.3, 0, 255), 0, 255), (Grid(0.5, -5, 5), -128, 127)]
)
def test_the_values_of_a_grid_are_those_of_all_codes_of_its_type(grid: Grid, first: int, last: int) -> None:
    expected = np.arange(first, last + 1, dtype=np.float32) * np.float32(grid.scale)
    assert np.array_equal(grid.values().numpy(), expected)


@given(seeds, st.sampled_from([8, 4, 2]), st.floats(-12, 2), st.integers(1, 40))
def test_sums_of_sixteen_bit_values_stay_within_half_of_the_accumulator(seed: int, bits: int, exponent: float, width: int) -> None:
    """With as many codes as `reach_limit` allows, whatever the snapping does to the weights."""
    weight = _weight(seed).repeat(1, width)
    reach = reach_limit(weight, bits=bits)
    codes = activation_grid(-1.0, 1.0, unsigned=False, bits=16, most=min(reach, 2**15 - 1))
    target = activation_grid(-(2.0**exponent) * width, 2.0**exponent * width, unsigned=False, bits=16)
    assume(float((_natural(weight, bits) * codes.scale / target.scale).max()) < 2**14 - 1)
    snapped = snap_weight(weight, None, codes, target, bits=bits)
    most = (1 << (bits - 1)) - 1
    integers = (weight.double() / torch.tensor(snapped.scales, dtype=torch.float64)[:, None]).round().clamp(-most, most)
    assert int(integers.abs().sum(1).max()) * max(codes.qmax, -codes.qmin) <= PRODUCT_LIMIT + 1 + most * weight.shape[1]


@pytest.mark.parametrize(("unsigned", "most"), [(False, 2**15 - 1), (True, 2**15 - 1), (False, 1000), (True, 999)])
def test_a_table_of_sixteen_bits_has_its_knots_inside_the_grid(unsigned: bool, most: int) -> None:
    grid = activation_grid(0.0, 3.0, unsigned=unsigned, bits=16, most=most)
    values = (grid.values() / torch.tensor(grid.scale, dtype=torch.float32)).round()
    assert len(values) == 513
    assert bool((values.diff() >= 0).all())
    assert float(values[0]) >= grid.qmin - 127
    assert float(values[-1]) <= grid.qmax + 127
    inside = torch.arange(-(2**15), 2**15 + 1, 128)
    inside = inside[(inside >= grid.qmin) & (inside <= grid.qmax)]
    assert set(inside.tolist()) <= set(values.tolist())


@given(seeds, powers, grids, st.floats(0.5, 2))
def test_tied_scales_are_the_first_ones_with_the_nearest_multipliers(seed: int, s_x: float, target: Grid, wider: float) -> None:
    weight, s_y = _weight(seed, 1.0)[:3], float(np.float32(target.scale * wider))
    other = Grid(s_y, target.qmin, target.qmax)
    assume(float((_natural(weight) * s_x / target.scale).max()) < 2**12)
    first = snap_weight(weight, None, source(s_x), target)
    tied = tied_scales(first, weight, None, source(s_x), other)
    exact = [scale * s_x / s_y for scale in first.scales]
    if tied is None:
        assert min(exact) * 2.0 ** shift_for(max(exact), limit=shift_limit(other)) < 0.5 + NOISE
    else:
        assert (tied.scales, tied.axis, tied.bits) == (first.scales, first.axis, first.bits)
        assert all(
            1 <= b < MULTIPLIER_LIMIT and abs(b - real * 2.0**tied.c) <= 0.5 + NOISE * b for b, real in zip(tied.b, exact, strict=True)
        )


def test_what_no_longer_fits_is_not_tied() -> None:
    weight, target = torch.ones(2, 4), Grid(0.1, -128, 127)
    first = snap_weight(weight, None, source(0.01), target)
    assert tied_scales(first, weight, torch.full((2,), 1e3), source(0.01), target) is not None
    assert tied_scales(first, weight, torch.full((2,), 1e8), source(0.01), target) is None
    assert tied_scales(first, weight, None, source(0.01), Grid(1e-9, -128, 127)) is None
    short = Grid(0.01, -(2**15), 2**15 - 1)
    assert tied_scales(first, weight, None, short, target) is not None
    assert tied_scales(Snapped((2.0**-14,) * 2, (1, 1), 1), weight, None, short, target) is None
