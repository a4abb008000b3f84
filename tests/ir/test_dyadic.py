"""Dyadics, shifts and saturation bounds, held to exact rationals."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from fxpress_ir.dyadic import MULTIPLIER_LIMIT, Dyadic, round_half_even, saturation_bounds, shift_for
from fxpress_ir.errors import ProgramError
from hypothesis import example, given, settings
from hypothesis import strategies as st

RANGES = ((-128, 127), (0, 255), (0, 127), (-32768, 32767), (-127, 127), (-127, 126), (0, 6), (1, 254), (-7, 7))
INT32 = 2**31


def requantized(acc: int, b: int, c: int, qmin: int, qmax: int) -> int:
    """The definition: round() of a Fraction is half to even."""
    return min(max(round(Fraction(acc * b, 2**c)), qmin), qmax)


@given(st.integers(-(2**70), 2**70), st.integers(1, 40))
@settings(max_examples=300, derandomize=True, deadline=None)
def test_rounding_is_half_to_even_on_any_integer(numerator: int, c: int) -> None:
    assert round_half_even(numerator, c) == round(Fraction(numerator, 2**c))


@pytest.mark.parametrize(
    ("numerator", "expected"), [(-6, -2), (-5, -1), (-3, -1), (-2, 0), (2, 0), (3, 1), (6, 2), (7, 2), (10, 2), (14, 4)]
)
def test_ties_go_to_the_even_neighbour(numerator: int, expected: int) -> None:
    assert round_half_even(numerator, 2) == expected


@given(st.floats(2.0**-30, 2.0**14 - 0.5, exclude_max=True), st.sampled_from([15, 16]))
@example(2.0**14 - 1, 16)
@example(math.nextafter(2.0**-2, 0), 16)
@example(math.nextafter(2.0, 0), 16)
@example(math.nextafter(4.0, 0), 16)
@example(math.nextafter(2.0, 3), 16)
@example(0.5, 15)
@example(1.0, 16)
@settings(max_examples=500, derandomize=True, deadline=None)
def test_the_shift_is_the_largest_that_keeps_b_below_2_to_the_15(largest: float, limit: int) -> None:
    fitting = [c for c in range(1, limit + 1) if round(Fraction(largest) * 2**c) < MULTIPLIER_LIMIT]
    assert shift_for(largest, limit=limit) == max(fitting)


@given(st.floats(2.0**-20, 2.0**14 - 0.5, exclude_max=True))
@settings(max_examples=300, derandomize=True, deadline=None)
def test_the_nearest_dyadic_has_no_nearer_one_with_its_shift(multiplier: float) -> None:
    found, exact = Dyadic.nearest(multiplier), Fraction(multiplier)
    assert found.c == shift_for(multiplier)
    error = abs(Fraction(found.b, 2**found.c) - exact)
    rivals = [b for b in (found.b - 1, found.b + 1) if b >= 1]
    assert all(error <= abs(Fraction(b, 2**found.c) - exact) for b in rivals)
    assert found.value == Fraction(found.b, 2**found.c)


@given(st.data())
@settings(max_examples=400, derandomize=True, deadline=None)
def test_the_saturation_bounds_change_no_bit(data: st.DataObject) -> None:
    qmin, qmax = data.draw(st.sampled_from(RANGES))
    b, c = data.draw(st.integers(1, MULTIPLIER_LIMIT - 1)), data.draw(st.integers(1, 16))
    bounds = saturation_bounds(np.asarray([b]), c, qmin, qmax)
    low, high = (int(bound[0]) for bound in bounds)
    near = [bound + step for bound in (low, high) for step in range(-3, 4)]
    for acc in [*near, *data.draw(st.lists(st.integers(-INT32, INT32 - 1), max_size=20))]:
        clipped = min(max(acc, low), high)
        assert requantized(clipped, b, c, qmin, qmax) == requantized(acc, b, c, qmin, qmax)


@given(st.sampled_from(RANGES), st.integers(1, MULTIPLIER_LIMIT - 1), st.integers(1, 16))
@example((-32768, 32767), 1, 16)
@example((-32768, 32767), MULTIPLIER_LIMIT - 1, 16)
@settings(max_examples=400, derandomize=True, deadline=None)
def test_clipped_products_fit_int32(limits: tuple[int, int], b: int, c: int) -> None:
    low, high = (int(bound[0]) for bound in saturation_bounds(np.asarray([b]), c, *limits))
    assert -INT32 <= low <= high < INT32
    assert max(abs(low * b), abs(high * b)) <= (max(map(abs, limits)) + Fraction(3, 2)) * 2**c + b
    assert -INT32 <= low * b <= high * b < INT32 - 2 ** (c - 1)


@pytest.mark.parametrize("largest", [0.0, -1.0, math.nan, math.inf, 2.0**14, 2.0**14 - 0.5])
def test_a_multiplier_out_of_range_has_no_shift(largest: float) -> None:
    with pytest.raises(ProgramError, match=r"outside \(0, 2\^14\)"):
        shift_for(largest)


@pytest.mark.parametrize(("b", "c"), [(0, 5), (MULTIPLIER_LIMIT, 5), (-1, 5), (1, 0), (1, 17)])
def test_a_dyadic_out_of_range_is_refused(b: int, c: int) -> None:
    with pytest.raises(ProgramError, match="is outside"):
        Dyadic(b, c)


def test_a_dyadic_prints_as_its_rational() -> None:
    assert str(Dyadic(29491, 14)) == "29491/2^14"
    assert Dyadic.nearest(2.0**-18) == Dyadic(1, 16)  # not 0: a channel never dies of its scale
