"""Programs print as their goldens, which are read in review."""

from __future__ import annotations

import pytest
import torch
from fxpress_ir import Edit, Program, capture, text
from fxpress_ir.printer import node_text, type_text
from golden import assert_golden
from support import aten, built, fxp, residual_net
from torch import Tensor, fx, nn
from torch.export import Dim


class Mixed(nn.Module):
    """Several inputs, outputs and dtypes; lists, keywords, sizes, slices and operators with several results."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.register_buffer("table", torch.zeros(6, dtype=torch.float64))

    def forward(self, x: Tensor, index: Tensor) -> tuple[Tensor, ...]:
        values, places = x.max(1)
        left, right = (x * self.scale).split([1, 3], dim=1)
        rows = x.view(x.size(0) * 2, -1).to(torch.float16)
        return torch.add(left, right, alpha=2), values, places, rows, self.table[index], self.scale


def mixed() -> Program:
    shapes = {"x": {0: Dim("batch", max=32)}, "index": {0: Dim("count")}}
    return capture(Mixed(), (torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64)), dynamic_shapes=shapes)


def simulated() -> Program:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        q = edit.call(fxp.fake_quantize.default, x, 0.03125, -128, 127)
        weight, scale = edit.add_tensor("weight", torch.ones(4, 3)), edit.add_tensor("scale", torch.ones(4, dtype=torch.float64))
        w = edit.call(fxp.fake_quantize_channels.default, weight, scale, 0, -127, 127)
        return edit.call(aten.linear.default, q, w)

    return built((1, 3), body, stage="simulated")


@pytest.mark.parametrize(("name", "program"), [("float", mixed), ("simulated", simulated), ("integer", residual_net)])
def test_a_program_prints_as_its_golden(name: str, program: object) -> None:
    made: Program = program()  # type: ignore[operator]
    assert text(made) == str(made)
    assert_golden(text(made), __file__, name)


def test_a_node_prints_as_its_line() -> None:
    program = residual_net()
    node = program.graph.find_nodes(op="call_function", target=fxp.add.default)[0]
    assert f"  {node_text(program, node)}" in text(program).splitlines()


def test_what_was_never_propagated_prints_as_unknown() -> None:
    program = simulated()
    edit = program.edit()
    node = edit.here(program.outputs()[0])
    del node.meta["val"]
    assert type_text(Program(edit.graph, edit.tensors, program.inputs, "simulated"), node) == "?"
