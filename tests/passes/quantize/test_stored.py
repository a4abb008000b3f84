"""Where the integers of a grid are held, and which of them bounds leave."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from fxpress_passes.quantize.scales import Grid
from fxpress_passes.quantize.stored import clamped, nearest, storage
from hypothesis import given
from hypothesis import strategies as st

INF = float("inf")
S8, U8 = Grid(0.5, -128, 127), Grid(0.5, 0, 255)


@pytest.mark.parametrize(
    ("grid", "dtype"), [(S8, torch.int8), (U8, torch.uint8), (Grid(0.1, -(2**15), 2**15 - 1), torch.int16), (Grid(0.1, -7, 7), torch.int8)]
)
def test_where_integers_are_held(grid: Grid, dtype: torch.dtype) -> None:
    assert storage(grid) == dtype


@pytest.mark.parametrize(
    ("grid", "bounds", "expected"),
    [
        (S8, (-INF, INF), (-128, 127)),
        (S8, (0.0, INF), (0, 127)),
        (S8, (0.0, 6.0), (0, 12)),
        (S8, (-0.75, 0.25), (-2, 0)),
        (U8, (0.0, 1e9), (0, 255)),
        (U8, (-3.0, 127.25), (0, 254)),
    ],
)
def test_bounds_are_the_nearest_integers_half_to_even(grid: Grid, bounds: tuple[float, float], expected: tuple[int, int]) -> None:
    assert clamped(grid, bounds) == expected


finite = st.floats(-1e6, 1e6)


@given(st.floats(1e-6, 1e3), finite, finite, st.integers(-(2**31), 2**31 - 1))
def test_clamping_integers_is_clamping_what_they_stand_for(scale: float, one: float, two: float, steps: int) -> None:
    """Rounding is monotone, so a clamp may come before it or after it."""
    low, high = sorted((one, two))
    grid = Grid(scale, -128, 127)
    least, most = clamped(grid, (low, high))
    before = min(max(Fraction(steps) * Fraction(scale) / 16, Fraction(low)), Fraction(high)) / Fraction(scale)
    first = min(max(round(before), -128), 127)
    later = min(max(round(Fraction(steps, 16)), least), most)
    assert abs(first - later) <= (1 if abs(low / scale % 1) == 0.5 or abs(high / scale % 1) == 0.5 else 0)


def test_the_nearest_step_of_a_number_is_on_the_grid() -> None:
    assert [nearest(real, U8) for real in (-INF, -1.0, 0.25, 0.75, 3.4, 1e30, INF)] == [0, 0, 0, 2, 7, 255, 255]
