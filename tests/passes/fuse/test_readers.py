"""Who asks for a value's size alone does not compute with it."""

from __future__ import annotations

import torch
from float_programs import Function, captured
from fxpress_ir import capture
from fxpress_passes.fuse.readers import holders, readers, sizes_of
from torch import nn


def test_sizes_are_no_readers() -> None:
    def body(x: torch.Tensor) -> torch.Tensor:
        y = x.relu()
        return y.reshape(y.shape[0] * 2, -1) + 1

    program = capture(Function(body), (torch.zeros(2, 6),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    (relu,) = program.graph.find_nodes(op="call_function", target=torch.ops.aten.relu.default)
    assert [node.target for node in readers(relu)] == [torch.ops.aten.reshape.default]
    assert all(node.target is torch.ops.aten.sym_size.int for node in sizes_of(relu))
    assert len(readers(relu)) + len(sizes_of(relu)) == len(relu.users)


def test_all_that_read_a_constant() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.layer(self.layer(x).relu())
            return y

    program = captured(Twice(), 2, 4)
    weights = [node.args[1] for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten.linear.default)]
    assert all(len(holders(weight)) == 2 for weight in weights)
