"""The compile-time plan, executed on Python integers modulo 2**32, equals exact rational rounding."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from fxpress_backends.onnx.rounding import Rounding, bounded, folds, plan
from fxpress_ir.dyadic import saturation_bounds
from fxpress_ir.errors import BackendError
from fxpress_ir.ops import Interval
from hypothesis import assume, given, settings
from hypothesis import strategies as st

INT32 = (-(2**31), 2**31 - 1)
RANGES = ((-128, 127, 128), (0, 255, 0), (0, 127, 128), (-7, 100, 128), (3, 200, 0), (-32768, 32767, 0), (-9, 10, 0))


def executed(rounding: Rounding, accumulator: int) -> int:
    """What the emitted nodes compute, for one channel."""
    x = accumulator
    if rounding.low is not None:
        x = max(x, int(rounding.low[0]))
    if rounding.high is not None:
        x = min(x, int(rounding.high[0]))
    u = (x * int(rounding.multiplier[0]) + int(rounding.addend[0])) % 2**32
    if rounding.ties:
        u = (u + (u >> rounding.c & 1)) % 2**32
    u >>= rounding.c
    if rounding.clip is not None:
        u = min(max(u, rounding.clip[0]), rounding.clip[1])
    return u - rounding.surplus


def fits(b: int, c: int, qmin: int, qmax: int, low: int, high: int) -> bool:
    """The verifier's fact of the product and its rounding term."""
    bounds = saturation_bounds(np.array([b]), c, qmin, qmax)
    ends = [int(np.clip(value, bounds[0][0], bounds[1][0])) * b for value in (low, high)]
    return ends[0] >= INT32[0] and ends[1] + (1 << (c - 1)) <= INT32[1] and INT32[0] <= bounds[0][0] and bounds[1][0] <= INT32[1]


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    st.one_of(st.integers(1, 32767), st.sampled_from([1 << k for k in range(15)])),
    st.integers(1, 16),
    st.sampled_from(RANGES),
    st.integers(-(2**30), 2**30),
    st.sampled_from([2**8, 2**17, 2**30]),
    st.data(),
)
def test_the_plan_rounds_half_to_even(b: int, c: int, limits: tuple[int, int, int], bias: int, reach: int, data: st.DataObject) -> None:
    qmin, qmax, zero = limits
    low, high = (data.draw(st.integers(-reach, 0)), data.draw(st.integers(0, reach)))
    assume(fits(b, c, qmin, qmax, low, high))
    assume(folds(np.array([bias]), np.array([b]), c, qmin, qmax))
    rounding = plan(Interval.of(low, high), np.array([bias]), np.array([b]), c, qmin, qmax, zero)
    assert rounding.surplus % 256 == 0
    near = [(half * (1 << (c - 1))) // b + d for half in range(2 * qmin - 3, 2 * qmax + 4, max(1, (qmax - qmin) // 40)) for d in (0, 1)]
    for total in [low, high, 0, *(value for value in near if low <= value <= high)]:
        wanted = min(max(round(Fraction(total * b, 1 << c)), qmin), qmax)
        assert executed(rounding, total - bias) == wanted + zero


def test_what_interval_arithmetic_excludes_is_not_emitted() -> None:
    b, none = np.array([257]), np.array([0])
    inside = plan(Interval.of(-10, 10), none, b, 8, -128, 127, 128)
    assert (inside.low, inside.high, inside.clip, inside.ties) == (None, None, None, False)
    assert plan(Interval.of(-200, 200), none, b, 8, -128, 127, 128).ties


def test_a_step_past_the_bound_is_clipped() -> None:
    steep = plan(Interval.of(-99, 99), np.array([0]), np.array([300]), 4, -128, 127, 128)
    assert steep.clip is not None
    assert executed(steep, 7) == 127 + 128
    assert executed(steep, -7) == 0


def test_a_result_wider_than_16_bits_is_refused() -> None:
    with pytest.raises(BackendError, match="needs more than 32 bits; use a 16-bit result"):
        plan(Interval.of(*INT32), np.array([0]), np.array([1]), 1, -(2**30), 2**31 - 3, 0)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    st.integers(-32767, 32767), st.integers(1, 24), st.sampled_from(RANGES), st.integers(-(2**31), 2**31), st.integers(1, 2**17), st.data()
)
def test_a_bounded_sum_rounds_half_to_even(
    g: int, c: int, limits: tuple[int, int, int], offset: int, reach: int, data: st.DataObject
) -> None:
    qmin, qmax, zero = limits
    low, high = (offset + end * reach * abs(g) for end in (-1, 1))
    assume(max(-low, high) + (1 << c) < 1 << 31)
    rounding = bounded(low, high, np.array([g]), np.array([offset]), c, qmin, qmax, zero)
    for x in [-reach, reach, 0, *data.draw(st.lists(st.integers(-reach, reach), max_size=20))]:
        assert executed(rounding, x) == min(max(round(Fraction(x * g + offset, 2**c)), qmin), qmax) + zero
