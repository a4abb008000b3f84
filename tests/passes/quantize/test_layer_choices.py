"""Layers become units: what they share is one, what a precision costs is counted, what is not finite is refused."""

from __future__ import annotations

import pytest
import torch
from float_programs import captured
from fxpress_ir.errors import PassError
from fxpress_passes import Context
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.evidence.sensitivity import MEASURES
from fxpress_passes.quantize.layer_choices import layers_of, units
from fxpress_passes.quantize.precision import Precision
from torch import Tensor, nn


class _Shares(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(torch.relu(self.shared(torch.relu(self.first(x)))))


def _context() -> Context:
    return Context(Evidence(Calibration([(torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(0)),)])))


def test_layers_that_share_a_weight_are_one_unit() -> None:
    torch.manual_seed(0)
    program = captured(_Shares(), 2, 2, 5, 5)
    first, shared = layers_of(program)
    assert (first.names, shared.names) == (("conv2d",), ("conv2d_1", "conv2d_2"))
    assert (first.elements, first.macs) == (72, 72 * 25)
    assert (shared.elements, shared.macs) == (16, 2 * 16 * 25)
    choices = (Precision(8), Precision(4, 16))
    found = units(program, layers_of(program), choices, _context(), measure="noise", loss="squares")
    assert [unit.members for unit in found] == [first.names, shared.names]
    assert [choice.costs for choice in found[1].choices] == [
        {"size": 16.0, "bops": 800 * 64.0},
        {"size": 8.0, "bops": 800 * 64.0},
    ]
    assert found[0].choices[0].loss < found[0].choices[1].loss


def test_a_sensitivity_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    program = captured(_Shares(), 2, 2, 5, 5)
    monkeypatch.setitem(MEASURES, "noise", lambda asked: {one.name: float("nan") for one in asked.perturbations})  # type: ignore[arg-type]
    with pytest.raises(PassError, match="allocate-bits, layer conv2d: the noise of w8a8 is nan; repair the model and the data"):
        units(program, layers_of(program), (Precision(),), _context(), measure="noise", loss="squares")
