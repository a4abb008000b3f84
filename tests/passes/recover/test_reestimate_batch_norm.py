"""Statistics of batch norms are those of calibration data afterwards."""

from __future__ import annotations

import pytest
import torch
from float_programs import Chain, captured
from fxpress_ir.errors import CalibrationError
from fxpress_ir.ops import arguments
from fxpress_passes import Context, ReestimateBatchNorm
from fxpress_passes.evidence import Calibration, Evidence
from torch import nn


def _context(*batches: torch.Tensor) -> Context:
    return Context(Evidence(Calibration(batches)))


def test_the_statistics_are_the_means_over_batches() -> None:
    norm = nn.BatchNorm2d(3).eval()
    program = captured(Chain(nn.ReLU(), norm), 1, 3, 4, 4)
    generator = torch.Generator().manual_seed(0)
    batches = [3 * torch.randn(16, 3, 4, 4, generator=generator) + 1 for _ in range(3)]
    after = ReestimateBatchNorm().apply(program, _context(*batches))
    (node,) = [node for node in after.graph.nodes if str(node.target) == "aten.batch_norm.default"]
    named = arguments(node)
    rectified = [batch.relu().double() for batch in batches]
    mean = torch.stack([x.mean((0, 2, 3)) for x in rectified]).mean(0)
    variance = torch.stack([x.var((0, 2, 3), unbiased=True) for x in rectified]).mean(0)
    assert torch.allclose(after.tensors[str(named["running_mean"].target)].double(), mean, rtol=1e-5)
    assert torch.allclose(after.tensors[str(named["running_var"].target)].double(), variance, rtol=1e-5)


def test_a_later_norm_sees_what_the_earlier_one_gives_with_its_new_statistics() -> None:
    program = captured(Chain(nn.BatchNorm2d(2), nn.BatchNorm2d(2)), 1, 2, 4, 4)
    x = 5 * torch.randn(64, 2, 4, 4, generator=torch.Generator().manual_seed(1)) + 3
    after = ReestimateBatchNorm().apply(program, _context(x))
    (y,) = after.run(x)
    assert float(y.mean((0, 2, 3)).abs().max()) < 1e-3
    assert float((y.std((0, 2, 3)) - 1).abs().max()) < 1e-2


def test_a_program_without_norms_comes_back_itself() -> None:
    program = captured(nn.Conv2d(3, 2, 1), 1, 3, 4, 4)
    assert ReestimateBatchNorm().apply(program, Context()) is program


def test_without_calibration_data_it_says_so() -> None:
    with pytest.raises(CalibrationError):
        ReestimateBatchNorm().apply(captured(Chain(nn.BatchNorm2d(2)), 1, 2, 4, 4), Context())
