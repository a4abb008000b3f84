"""Schedules against their formulas, step by step."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from fxpress_passes.recover.schedule import cosine, gradual_sparsity, smallest_masked
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(1, 60), st.integers(0, 9), st.integers(0, 9), st.integers(0, 80))
def test_the_share_of_zeros_is_the_cubic_at_every_step(length: int, initial: int, final: int, step: int) -> None:
    start, i, f = 5, Fraction(initial, 10), Fraction(final, 10)
    done = min(max(Fraction(step - start, length), Fraction(0)), Fraction(1))
    exact = f + (i - f) * (1 - done) ** 3
    assert gradual_sparsity(step, float(i), float(f), start, start + length) == pytest.approx(float(exact), abs=1e-12)


def test_it_ends_at_the_final_share_exactly() -> None:
    assert gradual_sparsity(10, 0.0, 0.3, 0, 10) == 0.3


def test_the_cosine_goes_from_one_to_almost_nothing() -> None:
    assert cosine(0, 10) == 1
    assert cosine(5, 10) == pytest.approx(0.5)
    assert 0 < cosine(9, 10) < 0.03


def test_the_smallest_go_the_earlier_among_equals() -> None:
    weight = torch.tensor([[3.0, -1.0], [1.0, -2.0]])
    assert smallest_masked(weight, 0.25).tolist() == [[True, False], [True, True]]
    assert smallest_masked(weight, 0.5).tolist() == [[True, False], [False, True]]
    assert smallest_masked(weight, 0.0).all()
