"""Statistics are those of the data afterwards; a norm in training keeps its batch's."""

from __future__ import annotations

import pytest
import torch
from float_programs import Chain, captured
from fxpress_ir.errors import CalibrationError
from fxpress_passes.recover.statistics import norms_with_statistics, reestimated
from torch import nn


def test_statistics_become_those_of_the_batches() -> None:
    program = captured(Chain(nn.BatchNorm2d(2)), 1, 2, 4, 4)
    x = 5 * torch.randn(64, 2, 4, 4) + 3
    after = reestimated(program, [(x,)])
    assert len(norms_with_statistics(after)) == 1
    (y,) = after.run(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)


def test_a_program_without_norms_comes_back_itself() -> None:
    program = captured(nn.Linear(2, 2), 1, 2)
    assert reestimated(program, []) is program


def test_one_value_a_channel_has_no_variance() -> None:
    program = captured(Chain(nn.Linear(2, 2), nn.BatchNorm1d(2)), 2, 2)
    with pytest.raises(CalibrationError, match="one value per channel"):
        reestimated(program, [(torch.zeros(1, 2),)])
