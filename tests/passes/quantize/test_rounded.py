"""What a precision leaves of weights and inputs, against exact arithmetic."""

from __future__ import annotations

import pytest
import torch
from fxpress_passes.evidence import Range
from fxpress_passes.quantize.rounded import rounded_weight, rounds_input


@pytest.mark.parametrize("bits", [2, 3, 5, 8])
@pytest.mark.parametrize("axis", [0, 1])
def test_weights_lie_on_the_channels_grid(bits: int, axis: int) -> None:
    weight = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(bits))
    found = rounded_weight(weight, bits, axis)
    most = 2 ** (bits - 1) - 1
    scale = weight.transpose(0, axis).flatten(1).abs().amax(1) / most
    steps = found.transpose(0, axis).flatten(1) / scale[:, None]
    assert found.shape == weight.shape
    assert torch.allclose(steps, steps.round(), atol=1e-4)
    assert int(steps.abs().max().round()) == most
    assert bool(((found - weight).transpose(0, axis).flatten(1).abs() <= scale[:, None] * 0.5001).all())


def test_a_channel_of_zeros_stays() -> None:
    assert torch.equal(rounded_weight(torch.zeros(2, 3), 4, 0), torch.zeros(2, 3))


def test_inputs_are_rounded_within_their_range() -> None:
    x = torch.linspace(-2, 2, 101)
    coarse, fine = (rounds_input(Range(-1.0, 1.0), bits)(x) for bits in (8, 16))
    assert float(coarse.max()) == pytest.approx(1.0)
    inside = x.abs() <= 1
    assert float((coarse - x)[inside].abs().max()) <= 0.5 / 127 + 1e-6
    assert float((fine - x)[inside].abs().max()) < 1e-4
