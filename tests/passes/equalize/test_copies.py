"""Copies of channels: what they sum to, and what rounding costs with and without them."""

from __future__ import annotations

import pytest
import torch
from fxpress_passes.equalize.copies import copies_of, exponents, rounded_error
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor


def test_exponents_are_the_least_that_bring_channels_to_one_width() -> None:
    reach = torch.tensor([80.0, 10.0, 10.1, 20.1, 0.0, 79.0])
    assert exponents(reach, 3).tolist() == [3, 0, 1, 2, 0, 3]
    assert exponents(reach, 1).tolist() == [1, 0, 0, 0, 0, 1]
    assert exponents(torch.zeros(3), 3).tolist() == [0, 0, 0]


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.integers(0, 1 << 16))
def test_sums_and_sums_of_squares_stay(chosen: list[int], seed: int) -> None:
    """Over multiples of 2**3 all of it is exact."""
    copies = copies_of(torch.tensor(chosen))
    channels = torch.randint(-100, 100, (len(chosen),), generator=torch.Generator().manual_seed(seed)).double() * 8
    found = channels[copies.source] / 2.0 ** copies.exponents[copies.source] * copies.signs
    assert len(found) == sum(4**one for one in chosen)
    assert torch.equal(copies.source[: len(chosen)], torch.arange(len(chosen)))
    assert bool((copies.signs[: len(chosen)] == 1).all())
    assert float(found.sum()) == float(channels.sum())
    assert float(found.square().sum()) == float(channels.square().sum())


def _rows(*widths: float) -> Tensor:
    return (torch.rand(100, len(widths), generator=torch.Generator().manual_seed(0)).double() + 1) * torch.tensor(widths)


@pytest.mark.parametrize("centre", [False, True])
def test_narrow_channels_are_nearer_with_copies_of_the_wide_one(centre: bool) -> None:
    rows = _rows(3000.0, *[1.0] * 63)
    if centre:
        rows[:, 1::2] *= -1
        rows[:, 1] = -rows[:, 0]
        rows = rows - rows.mean(1, keepdim=True)
    reach, gain = rows.abs().amax(0), 1 / rows.abs().amax(0)
    errors = [
        rounded_error(rows, reach, chosen, gain, torch.zeros(64).double(), 1e-5, centre=centre)
        for chosen in (torch.zeros(64, dtype=torch.int64), exponents(reach, 3))
    ]
    assert errors[1] < errors[0] / 2


def test_channels_as_wide_as_each_other_lose_what_8_bits_lose() -> None:
    rows = _rows(*[1.0] * 16)
    found = rounded_error(rows, rows.amax(0), torch.zeros(16, dtype=torch.int64), torch.ones(16), torch.zeros(16), 0.0, centre=False)
    exact = rows / rows.square().mean(1, keepdim=True).sqrt()
    width = float(exact.abs().max()) / 127
    assert found == pytest.approx(float(width**2 / 12 / exact.square().mean()), rel=0.1)
