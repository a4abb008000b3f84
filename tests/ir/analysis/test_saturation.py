"""Clamped values are counted at each node; a ReLU's lower bound is no loss."""

from __future__ import annotations

import pytest
import torch
from fxpress_ir import Edit, Program
from fxpress_ir.analysis.saturation import Saturation, saturation
from fxpress_ir.errors import InputError
from support import built, fxp, multipliers, residual_net
from torch import fx


def chain(qmin: int, dtype: torch.dtype) -> Program:
    """quantize by 1, times 4 into [qmin, 100], plus itself into [qmin, 120]."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        q = edit.call(fxp.quantize.default, x, 1.0, -50, 50, torch.int8, name="q")
        four = edit.call(fxp.requantize.default, q, edit.add_tensor("b", multipliers([8])), 1, qmin, 100, 1, dtype, name="four")
        return edit.call(fxp.add.default, four, four, 2, 2, 1, qmin, 120, dtype, name="total")

    return built((1, 4), body)


def test_each_node_counts_what_it_clamps() -> None:
    x = torch.tensor([[-60.0, -30.0, -1.0, 0.0], [10.0, 20.0, 25.0, 51.0]])
    # q clamps -60 and 51; four: -200, -120, -4, 0, 40, 80, 100, 200; total: -200, -200, -8, 0, 80, 160, 200, 200
    found = saturation(chain(-100, torch.int8), x)
    assert found == Saturation({"q": (8, 2), "four": (8, 3), "total": (8, 5)})
    assert found.share == 10 / 24


def test_the_lower_bound_of_a_relu_does_not_count() -> None:
    x = torch.tensor([[-60.0, -30.0, -1.0, 0.0], [10.0, 20.0, 25.0, 51.0]])
    assert saturation(chain(0, torch.uint8), x) == Saturation({"q": (8, 2), "four": (8, 1), "total": (8, 3)})


def test_a_value_that_rounds_to_the_bound_is_not_clamped() -> None:
    x = torch.tensor([[50.4, 50.5, -50.5, 50.6]])  # 50.5 is a tie and goes to 50
    assert saturation(chain(-100, torch.int8), x).nodes["q"] == (4, 1)


def test_every_clamping_node_of_a_net_is_counted() -> None:
    program = residual_net()
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = saturation(program, x)
    clamping = (fxp.quantize.default, fxp.requantize.default, fxp.add.default)
    assert [*found.nodes] == [node.name for node in program.graph.nodes if node.target in clamping]
    assert 0 < found.share < 1
    assert all(0 <= clamped <= values for values, clamped in found.nodes.values())


def test_a_program_that_clamps_nothing_has_no_share() -> None:
    assert saturation(built((1, 3), lambda edit, x: x), torch.zeros(1, 3)).share == 0.0


def test_inputs_are_held_to_the_signature() -> None:
    with pytest.raises(InputError, match="dimension 1 is 5, expected 4"):
        saturation(chain(0, torch.uint8), torch.zeros(1, 5))


def test_the_scores_that_an_attention_sees_are_counted() -> None:
    """Scores 100 k_j for the keys 1, 2 and -3; the last is hidden, and means of values stay within what the values span."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        keys = edit.add_tensor("keys", torch.tensor([[1], [2], [-3]], dtype=torch.int8))
        mask = edit.add_tensor("mask", torch.tensor([[True, True, False]]))
        table = edit.add_tensor("table", torch.arange(255, -1, -1).to(torch.uint8))
        parts = (mask, None, table, 2, 1, 2, 9, -20, 20, False, torch.int8)
        return edit.call(fxp.attention.default, x, keys, keys, *parts, name="mixed")

    found = saturation(built((1, 1), body, dtype=torch.int8), torch.tensor([[100]], dtype=torch.int8))
    assert found == Saturation({"mixed": (1, 0), "mixed.scores": (2, 1)})


def test_a_gain_after_a_normalisation_is_counted() -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        gain, shift = (edit.add_tensor(name, torch.tensor([value], dtype=torch.int32)) for name, value in (("gain", 8), ("shift", 0)))
        return edit.call(fxp.affine.default, x, gain, shift, 2, -100, 100, -1, torch.int8, name="wide")

    found = saturation(built((1, 4), body, dtype=torch.int8), torch.tensor([[-51, -50, 50, 51]], dtype=torch.int8))
    assert found == Saturation({"wide": (4, 2)})
