"""Distances are 0 where nothing changed and right elsewhere; a loss of its own has gradient 0."""

from __future__ import annotations

import pytest
import torch
from float_programs import Chain, captured
from fxpress_ir.errors import CalibrationError
from fxpress_passes.evidence.losses import COORDINATES, DISTANCES, LOSSES, divergence, first_float, perturbed, squares
from torch import nn
from torch.func import functional_call


def test_divergence_is_the_sum_of_p_log_p_over_q() -> None:
    original, other = torch.randn(3, 5), torch.randn(3, 5)
    p, q = original.double().softmax(-1), other.double().softmax(-1)
    assert float(divergence(original, other)) == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-5)
    assert float(divergence(original, original + 3)) == pytest.approx(0, abs=1e-6)


def test_squares_are_of_whole_samples() -> None:
    original, other = torch.zeros(2, 3, 2), torch.full((2, 3, 2), 2.0)
    assert float(squares(original, other)) == pytest.approx(6 * 4 / 2)


@pytest.mark.parametrize("name", DISTANCES)
def test_half_the_squared_length_of_a_small_move_is_its_distance(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    original = torch.randn(6, 5, dtype=torch.float64, generator=generator)
    move = 1e-3 * torch.randn(6, 5, dtype=torch.float64, generator=generator)
    length = COORDINATES[name](original, move).square().sum() / 2
    assert float(length) / 6 == pytest.approx(float(DISTANCES[name](original, original + move)), rel=1e-2)
    assert COORDINATES.keys() == DISTANCES.keys()


@pytest.mark.parametrize("name", DISTANCES)
def test_a_program_is_at_no_distance_from_itself(name: str) -> None:
    torch.manual_seed(0)
    program, x = captured(Chain(nn.Linear(3, 4)), 2, 3), torch.randn(5, 3)
    weight = {name: value.detach().clone().requires_grad_() for name, value in program.tensors.items()}
    loss = LOSSES[name](functional_call(program.module, weight, (x,)), (x,))
    gradients = torch.autograd.grad(loss, list(weight.values()))
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert all(float(gradient.abs().max()) < 1e-6 for gradient in gradients)


def test_integers_alone_are_refused() -> None:
    with pytest.raises(CalibrationError, match="no output is floating-point"):
        first_float((torch.zeros(2, dtype=torch.int64),))
    assert first_float((torch.zeros((), dtype=torch.float32),)).shape == (1,)


def test_other_weights_give_other_outputs() -> None:
    program, x = captured(Chain(nn.Linear(3, 4, bias=False)), 2, 3), torch.randn(5, 3)
    (name,) = program.tensors
    assert torch.equal(perturbed(program.module, {name: torch.zeros(4, 3)}, (x,)), torch.zeros(5, 4))
    assert torch.equal(perturbed(program.module, {}, (x,)), program.run(x)[0])
