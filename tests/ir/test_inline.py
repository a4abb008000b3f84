"""Blocks that export wraps are written out; blocks that change numbers are refused."""

from __future__ import annotations

import pytest
import torch
from fxpress_ir import capture
from fxpress_ir.errors import CaptureError
from torch import Tensor, nn


class Frozen(nn.Module):
    """Blocks without gradients and without autocast, one in the other, with weights and several results."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            angles = self.linear(x)
            with torch.autocast("cpu", enabled=False):
                cosine, sine = angles.cos(), angles.sin()
        return x * cosine + sine


class Mixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return x @ x


class Conditional(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))


def test_blocks_are_written_out_where_they_stood() -> None:
    torch.manual_seed(0)
    model = Frozen()
    program = capture(model, (torch.zeros(1, 3),), dynamic_shapes={"x": {0: torch.export.Dim("batch")}})
    assert [str(node.target) for node in program.graph.nodes if node.op == "call_function"] == [
        "aten.linear.default",
        "aten.cos.default",
        "aten.sin.default",
        "aten.mul.Tensor",
        "aten.add.Tensor",
    ]
    x = torch.randn(3, 3)
    with torch.no_grad():
        assert torch.equal(program.run(x)[0], model(x))
    assert program.shape_of(program.outputs()[0]) == ("batch", 3)
    assert program.tensors["linear.weight"] is model.linear.weight


def test_autocast_is_refused() -> None:
    with pytest.raises(CaptureError, match="runs under autocast; convert the model to one dtype"):
        capture(Mixed(), (torch.zeros(3, 3),))


def test_a_conditional_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"cond holds graphs of its own; use operators on tensors, such as torch\.where"):
        capture(Conditional(), (torch.zeros(3),))
