"""Losses: zero where student and teacher agree, what their formulas say elsewhere."""

from __future__ import annotations

import pytest
import torch
from fxpress_passes.recover.distillation import outputs_loss, square_head


@pytest.mark.parametrize("kind", ["kl", "mse"])
def test_agreement_costs_nothing(kind: str) -> None:
    scores, ids = torch.randn(4, 5), torch.arange(4)
    assert float(outputs_loss(kind, [scores, ids], [scores, ids + 1], 2.0)) == pytest.approx(0, abs=1e-6)


def test_kl_is_its_formula_at_a_temperature() -> None:
    student, teacher, temperature = torch.randn(4, 3, 5), torch.randn(4, 3, 5), 2.0
    p, q = ((x / temperature).softmax(-1).double() for x in (teacher, student))
    exact = (p * (p / q).log()).sum(-1).mean() * temperature**2
    assert float(outputs_loss("kl", [student], [teacher], temperature)) == pytest.approx(float(exact), rel=1e-5)


def test_mse_is_relative_and_outputs_add_up() -> None:
    one, other = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 3.0]])
    assert float(outputs_loss("mse", [other, other], [one, one], 1.0)) == pytest.approx(2 / 25)


def test_features_of_any_scale_count_the_same() -> None:
    teacher, student = [torch.randn(4, 6), torch.randn(4, 3, 2)], [torch.randn(4, 6), torch.randn(4, 3, 2)]
    scaled = square_head([100 * part for part in student], [100 * part for part in teacher])
    torch.testing.assert_close(scaled, square_head(student, teacher))
