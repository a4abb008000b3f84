"""A program as plain data: JSON there and back, arrays, and a refusal for what has no plain form."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from fxpress_ir import Dimension, Edit, InputSpec, Program, capture
from fxpress_ir.errors import ProgramError
from fxpress_ir.portable import FORMAT, graph_data, read_signature, signature, tensor_data
from golden import assert_golden
from support import aten, built, fxp, multipliers, residual_net
from torch import Tensor, fx, nn
from torch.export import Dim


def small() -> Program:
    """quantize, linear without a bias, requantize, a view by a size, dequantize."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        size = edit.call(aten.sym_size.int, x, 0)
        q = edit.call(fxp.quantize.default, x, 0.1, -128, 127, torch.int8)
        acc = edit.call(fxp.linear.default, q, edit.add_tensor("weight", torch.ones(4, 3, dtype=torch.int8)), None)
        y = edit.call(fxp.requantize.default, acc, edit.add_tensor("b", multipliers([100])), 8, -128, 127, -1, torch.int8)
        return edit.call(fxp.dequantize.default, edit.call(aten.view.default, y, [size, 2, 2]), 0.5)

    return built((1, 3), body)


def test_a_graph_prints_as_its_golden() -> None:
    assert_golden(json.dumps(graph_data(small()), indent=1), __file__, "small")


@pytest.mark.parametrize("program", [small, residual_net])
def test_a_graph_is_json_that_names_every_tensor_and_node(program: object) -> None:
    made: Program = program()  # type: ignore[operator]
    data = graph_data(made)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert (data["format"], data["stage"]) == (FORMAT, "integer")
    names, tensors = {spec["name"] for spec in data["inputs"]}, set()
    for node in data["nodes"]:
        references = [value for value in node["arguments"].values() if isinstance(value, dict)]
        assert {value["node"] for value in references if "node" in value} <= names  # defined before use
        tensors |= {value["tensor"] for value in references if "tensor" in value}
        names.add(node["name"])
    assert set(data["outputs"]) <= names
    assert tensors == tensor_data(made).keys()


def test_tensors_are_contiguous_arrays_of_the_same_values() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.arange(6.0).reshape(2, 3).t())

        def forward(self, x: Tensor) -> Tensor:
            return x + self.table

    (array,) = tensor_data(capture(Turned(), (torch.zeros(3, 2),))).values()
    assert array.flags.c_contiguous
    assert np.array_equal(array, np.arange(6.0, dtype=np.float32).reshape(2, 3).T)


def test_a_signature_survives_json() -> None:
    inputs = (
        InputSpec("x", (Dimension("batch"), 3, Dimension("tokens", 2, 512)), torch.float32),
        InputSpec("ids", (), torch.int64),
        InputSpec("mask", (Dimension("batch"),), torch.bool),
        InputSpec("q", (2,), torch.int8, 0.1),
    )
    assert [entry.get("scale") for entry in signature(inputs)] == [None, None, None, 0.1]
    assert read_signature(json.loads(json.dumps(signature(inputs)))) == inputs


def test_arguments_have_the_schema_s_names_and_defaults() -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        node = edit.call(aten.to.dtype, x, torch.float16)
        return edit.call(aten.clone.default, node)

    to, clone = graph_data(built((1, 3), body, stage="float"))["nodes"]
    assert to["arguments"] == {"self": {"node": "x"}, "dtype": "float16", "non_blocking": False, "copy": False, "memory_format": None}
    assert clone == {
        "name": "clone_default",
        "operator": "aten.clone",
        "arguments": {"self": {"node": to["name"]}, "memory_format": None},
        "type": "float16",
    }


def test_python_operators_on_sizes_number_their_arguments() -> None:
    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(x.size(0) * 2, -1)

    nodes = graph_data(capture(Doubled(), (torch.zeros(1, 4),), dynamic_shapes={"x": {0: Dim("batch")}}))["nodes"]
    product = next(node for node in nodes if node["operator"] == "python.mul")
    assert (list(product["arguments"].values())[1], product["type"]) == (2, "size")


def test_an_argument_without_a_plain_form_is_refused() -> None:
    program = small()
    edit = program.edit()
    node = edit.graph.find_nodes(op="call_function", target=fxp.dequantize.default)[0]
    node.args = (node.args[0], 1j)
    with pytest.raises(ProgramError, match="argument 1j has no portable form"):
        graph_data(Program(edit.graph, edit.tensors, program.inputs, "integer"))
