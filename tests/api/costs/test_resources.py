"""Size at the stored bits, multiply-accumulates, bit operations and memory, at every stage."""

from __future__ import annotations

import fxpress as fx
import pytest
import torch
from fxpress.costs import GroupCosts, resources
from fxpress_ir import Edit, Program
from fxpress_ir.errors import ProgramError
from support import built, conv, fxp
from torch import nn


def _float() -> Program:
    model = nn.Sequential(nn.Linear(6, 4, bias=False), nn.ReLU(), nn.Linear(4, 3))
    return fx.capture(model.eval(), (torch.zeros(1, 6),), dynamic_shapes={"input": {0: fx.Dim("batch")}})


def _of_four_bits() -> Program:
    def body(edit: Edit, x: torch.fx.Node) -> torch.fx.Node:
        q = edit.call(fxp.quantize.default, x, 0.1, -8, 7, torch.int8)
        weight = torch.arange(-7, 8, dtype=torch.int8).repeat(5)[: 8 * 2 * 1 * 3].reshape(8, 2, 1, 3)
        q = conv(edit, q, weight, None, torch.full((8,), 7, dtype=torch.int32), 12, relu=False, padding=1, name="layer")
        return edit.call(fxp.dequantize.default, q, 0.5)

    return built((1, 2, 4, 4), body)


def test_a_float_program() -> None:
    found = resources(_float(), {"batch": 2})
    assert found.macs == 2 * (6 * 4 + 4 * 3)
    assert found.bops == found.macs * 32 * 32
    assert found.size == (24 + 12 + 3) * 4
    assert found.peak_memory == _float().cost(batch=2).peak_memory
    assert found.seconds is None
    assert {name: (one.size, one.macs, one.activation_bytes) for name, one in found.nodes.items()} == {
        "linear": (96, 48, 32),
        "relu": (0, 0, 32),
        "linear_1": (60, 24, 24),
    }


def test_integers_count_at_the_bits_that_they_span() -> None:
    found = resources(_of_four_bits())
    layer = found.nodes["conv2d_default"]
    assert layer.size == 48 * 4 / 8
    assert layer.macs == 8 * 6 * 4 * 6
    assert layer.bops == layer.macs * 4 * 4
    assert found.nodes["requantize_default"].size == 8 * 4
    assert found.size == 24 + 32


def test_a_simulated_program_counts_as_the_integers_that_it_stands_for() -> None:
    pipeline = fx.Pipeline.parse("place-quantizers{weight_bits=4, edge_bits=4}")
    simulated = pipeline.run(_float(), calibration=[(torch.randn(4, 6),)]).program
    found = resources(simulated)
    first = found.nodes["linear"]
    assert (first.size, first.bops) == (24 * 4 / 8, 24 * 4 * 8)
    assert found.macs == _float().cost().macs


def test_time_stands_beside() -> None:
    program = _float()
    costs = GroupCosts("t", 1, {"batch": 1}, ((("linear", "relu"), "a:1", 2.0), ((), "runtime", 1.0)), (None, None), {"linear": 2.0})
    found = resources(program, costs=costs)
    assert found.seconds == 3.0
    assert [found.nodes[name].seconds for name in ("linear", "relu")] == [2.0, 0.0]


def test_an_unknown_dimension_is_refused() -> None:
    with pytest.raises(ProgramError, match="no dimension is named 'bach'"):
        resources(_float(), {"bach": 2})
