"""The error of any weight on the data comes out of the moments alone, with and without a bias that takes the mean."""

from __future__ import annotations

import pytest
import torch
from fxpress_passes.reconstruct.quadratic import Quadratic
from torch import Tensor


def _data() -> tuple[Tensor, Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    """Weight [2, 3, 4], bias [2, 3], another weight, and inputs and results of 2 groups in two parts."""
    torch.manual_seed(0)
    weight, bias, other = torch.randn(2, 3, 4).double(), torch.randn(2, 3).double(), torch.randn(2, 3, 4).double()
    parts = [(torch.randn(2, count, 4) + 1, torch.randn(2, count, 3) * 2 + 3) for count in (10, 7)]
    return weight, bias, other, parts


def _wrong(other: Tensor, bias: Tensor | None, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """By hand, float64 [2, n, 3]."""
    x, y = (torch.cat([part[place] for part in parts], 1).double() for place in (0, 1))
    found = x @ other.transpose(1, 2) - y
    return found if bias is None else found + bias[:, None]


@pytest.mark.parametrize("takes_mean", [True, False])
@pytest.mark.parametrize("has_bias", [True, False])
def test_the_error_is_that_of_the_data(takes_mean: bool, has_bias: bool) -> None:
    weight, given, other, parts = _data()
    bias = given if has_bias else None
    found = Quadratic.of(weight, bias, parts, takes_mean=takes_mean)
    for tried in (other, weight):
        wrong = _wrong(tried, bias, parts)
        expected = wrong.var(1, unbiased=False) if takes_mean else wrong.square().mean(1)
        assert torch.allclose(found.errors(tried), expected, rtol=1e-5)  # the data are float32
        assert torch.allclose(found.offset(tried), wrong.mean(1), rtol=1e-5, atol=1e-6)
        assert torch.allclose(found.spread_of(tried), (wrong + _wrong(tried * 0, None, parts) * -1).var(1, unbiased=False), rtol=1e-4)
    y = torch.cat([part[1] for part in parts], 1).double()
    assert torch.allclose(found.spread, y.var(1, unbiased=False), rtol=1e-5)
    assert torch.allclose(found.wanted, y.mean(1), rtol=1e-5)


def test_damping_adds_to_the_diagonal_and_gives_dead_columns_a_one() -> None:
    weight, bias, _, parts = _data()
    for x, _ in parts:
        x[:, :, 2] = 0
    found = Quadratic.of(weight, bias, parts, takes_mean=False)
    damped = found.damped(0.5)
    mean = found.moment.diagonal(dim1=1, dim2=2).mean(1)
    assert torch.allclose((damped - found.moment)[:, 0, 0], 0.5 * mean)
    assert torch.equal(damped[:, 2, 2], torch.ones(2).double())
    assert bool((torch.linalg.eigvalsh(damped) > 0).all())


def test_infinity_is_seen() -> None:
    weight, bias, _, parts = _data()
    assert Quadratic.of(weight, bias, parts, takes_mean=True).is_finite()
    parts[1][0][0, 0, 0] = float("inf")
    assert not Quadratic.of(weight, bias, parts, takes_mean=True).is_finite()
