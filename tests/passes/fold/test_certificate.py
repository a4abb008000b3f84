"""What is kept of a fold: relative to the largest value, in float64, with the zeros that it cost."""

from __future__ import annotations

import pytest
import torch
from fxpress_passes.fold.certificate import Certificate, residual, zeros


def test_the_residual_is_relative_to_the_largest_value() -> None:
    expected = torch.tensor([1.0, -4.0])
    assert residual(expected, torch.tensor([1.0, -4.0])) == 0
    assert residual(expected, torch.tensor([1.5, -4.0])) == pytest.approx(0.125, rel=1e-12)  # one quotient
    assert residual(torch.zeros(2), torch.ones(2)) > 1e6
    assert residual(torch.zeros(0), torch.zeros(0)) == 0


def test_a_value_that_is_lost_is_no_small_residual() -> None:
    assert not residual(torch.ones(2), torch.tensor([1.0, torch.nan])) <= 1.0


def test_zeros_are_counted_whatever_their_sign() -> None:
    assert zeros(torch.tensor([0.0, -0.0, 1e-30])) == 2


@pytest.mark.parametrize(
    ("counted", "told"), [((5, 0), ", 5 of its 5 zeros are lost"), ((5, 5), ""), ((0, 2), ""), ((5, 4), ", 1 of its 5 zeros are lost")]
)
def test_one_line_says_it_all(counted: tuple[int, int], told: str) -> None:
    line = str(Certificate("fc.weight", "add", 1.5e-7, "random", counted))
    assert line == f"folded add into fc.weight: residual 1.5e-07 on random inputs{told}"
