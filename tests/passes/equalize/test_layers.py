"""Layers with other weights: what reads the old tensors keeps them, and arguments behind the bias stay."""

from __future__ import annotations

import pytest
import torch
from float_programs import captured, operators, sample
from fxpress_ir import Program, verify
from fxpress_passes.equalize.layers import rewrite
from torch import nn
from torch.nn import functional


def _doubled(program: Program, target: object, bias: float = 0.0) -> Program:
    edit = program.edit()
    layer = next(node for node in edit.graph.nodes if node.target is target)
    rewrite(edit, layer, lambda w, b: (2 * w, 2 * b + bias))
    result = edit.finish()
    verify(result)
    return result


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer(bias: bool) -> None:
    before = captured(nn.Linear(4, 3, bias=bias), 2, 4)
    (x,) = sample(before, 3)
    after = _doubled(before, torch.ops.aten.linear.default)
    assert torch.allclose(after.run(x)[0], 2 * before.run(x)[0], rtol=1e-6, atol=1e-6)
    assert len(after.tensors) == 1 + bias
    shifted = _doubled(before, torch.ops.aten.linear.default, 1.0)
    assert torch.allclose(shifted.run(x)[0], 2 * before.run(x)[0] + 1, rtol=1e-6, atol=1e-6)
    assert len(shifted.tensors) == 2


def test_a_convolution_keeps_its_stride() -> None:
    before = captured(nn.Conv2d(3, 4, 2, stride=2), 2, 3, 8, 8)
    (x,) = sample(before, 3)
    after = _doubled(before, torch.ops.aten.conv2d.default)
    assert torch.allclose(after.run(x)[0], 2 * before.run(x)[0], rtol=1e-5, atol=1e-5)


def test_a_tensor_that_others_read_stays() -> None:
    weight = nn.Parameter(torch.eye(4))

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.linear(functional.linear(x, self.weight).relu(), self.weight)

    before = captured(Tied(), 2, 4)
    (x,) = sample(before, 3)
    after = _doubled(before, torch.ops.aten.linear.default)
    assert operators(after) == operators(before)
    assert torch.equal(after.run(x)[0], 2 * before.run(x)[0])
    assert sorted(after.tensors) == ["weight", "weight_1"]


def test_what_is_given_back_stays() -> None:
    before = captured(nn.Linear(4, 3), 2, 4)
    edit = before.edit()
    rewrite(edit, next(node for node in edit.graph.nodes if node.target is torch.ops.aten.linear.default), lambda w, b: (w, 2 * b))
    after = edit.finish()
    (weight,) = (name for name, tensor in before.tensors.items() if tensor.dim() == 2)
    assert after.tensors[weight] is before.tensors[weight]
