"""Errors of quantised layers, against the same by hand."""

from __future__ import annotations

import pytest
import torch
from fxpress_passes.equalize.error import error, powers, quantized, step
from torch import Tensor


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (torch.tensor([[-3.0, 1.6]]), 3.0 / 7),
        (torch.tensor([[0.0, 3.0]]), 3.0 / 15),
        (torch.zeros(1, 2), 1e-30),
    ],
)
def test_steps_have_a_sign_only_where_something_is_negative(rows: Tensor, expected: float) -> None:
    assert step(rows, 4) == pytest.approx(expected)


def test_values_are_rounded_to_steps() -> None:
    assert torch.equal(quantized(torch.tensor([[-7.0, 3.4, 0.6]]), 4), torch.tensor([[-7.0, 3.0, 1.0]]))


def test_what_the_grids_hold_has_no_error() -> None:
    rows, weight = torch.tensor([[-7.0, 3.0], [1.0, 0.0]]), torch.tensor([[7.0, -2.0], [3.5, 1.0]])
    assert error(rows, [weight], powers(rows, [weight]), 4, 4) == pytest.approx(0, abs=1e-12)


def test_it_is_the_mean_square_over_the_scale_summed_over_the_layers() -> None:
    rows, weights = torch.tensor([[-7.0, 3.4]]), [torch.tensor([[7.0, 7.0]]), torch.tensor([[0.0, 7.0]])]
    scales = powers(rows, weights)
    assert scales == pytest.approx([(7 * 3.6) ** 2, (7 * 3.4) ** 2])
    assert error(rows, weights, [2.0, 4.0], 4, 4) == pytest.approx((7 * 0.4) ** 2 * (1 / 2 + 1 / 4))


def test_fewer_bits_are_worse() -> None:
    rows, weight = torch.randn(64, 16), torch.randn(8, 16)
    found = [error(rows, [weight], powers(rows, [weight]), bits, 8) for bits in (8, 6, 4)]
    assert found == sorted(found)
