"""16-bit values have as many codes as 32-bit sums allow; what leaves 8 bits is refused."""

from __future__ import annotations

import pytest
import torch
from float_programs import captured, sample
from fxpress_ir import Program
from fxpress_ir.errors import PassError
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.quantize.decision import Decision, Placement
from fxpress_passes.quantize.limits import code_limits
from fxpress_passes.quantize.precision import Precision
from fxpress_passes.quantize.recognize import recognize
from torch import nn
from torch.nn import functional

S16 = (-(2**15), 2**15 - 1)


def _short(program: Program) -> Placement:
    ranges = Evidence(Calibration([sample(program, 8, seed) for seed in range(4)])).ranges(program)
    return Decision(program, recognize(program.graph), lambda node, border: ranges[node.name], lambda node: Precision(), 16).plan()


def test_sixteen_bit_values_have_as_many_codes_as_their_readers_sums_allow() -> None:
    """A thousand equal weights of 127 leave 2**30 / 127500 codes to their input; a table leaves all."""
    layer = nn.Linear(1000, 3)
    with torch.no_grad():
        layer.weight.fill_(0.5)
    plan = _short(captured(nn.Sequential(nn.ReLU(), layer, nn.Sigmoid()), 2, 1000))
    limits = {site: (grid.qmin, grid.qmax) for site, grid in plan.activations.items()}
    assert limits["linear"] == S16
    assert limits["relu"] == (0, 8421)
    assert 8421 * (127 * 1000 + 500) < 2**30 <= 8423 * (127 * 1000 + 500)


def test_sums_that_leave_eight_bits_to_a_value_are_refused() -> None:
    layer = nn.Linear(40000, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    with pytest.raises(PassError, match=r"node linear: its sums leave 8 bits to its input; use activation_bits=8"):
        _short(captured(layer, 2, 40000))


def test_only_what_is_limited_is_named() -> None:
    """An average over 64 pixels leaves 2**30 / 64 codes; one over 4 leaves all."""
    program = captured(lambda x: functional.avg_pool2d(functional.avg_pool2d(x.sigmoid(), 2).tanh(), 8), 2, 3, 16, 16)
    found = code_limits(recognize(program.graph), program.tensors, lambda node: Precision())
    assert found == {}
    program = captured(lambda x: functional.avg_pool2d(x.sigmoid(), 256), 2, 1, 256, 256)
    found = code_limits(recognize(program.graph), program.tensors, lambda node: Precision())
    assert {node.name: limit for node, limit in found.items()} == {"sigmoid": (2**30 - 1) // 2**16}
