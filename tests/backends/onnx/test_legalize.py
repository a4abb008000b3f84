"""What ONNX cannot take is refused before any work, with the node and the way on."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from fxpress_backends.contract import Target
from fxpress_backends.onnx import ONNX
from fxpress_backends.onnx.integer import F1
from fxpress_backends.onnx.legalize import refusals
from fxpress_backends.onnx.walk import Flavour
from fxpress_ir import Edit, Program, capture, verify
from fxpress_ir.errors import BackendError
from support import aten, attending_net, built, fxp, moving_net, requantize, residual_net
from torch import fx

INTEGER = ("onnx:int", "onnx:qlinear")


def one(overload: Any, *arguments: Any, dtype: torch.dtype = torch.int8) -> Program:
    return built((1, 2, 4, 4), lambda edit, x: edit.call(overload, x, *arguments), dtype=dtype)


def wide_sum(weights: int, bias: int, dtype: torch.dtype) -> Program:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        weight = edit.add_tensor("weight", torch.full((1, weights), 127, dtype=torch.int8))
        acc = edit.call(fxp.linear.default, x, weight, edit.add_tensor("bias", torch.tensor([bias], dtype=torch.int32)))
        return requantize(edit, acc, torch.tensor([1], dtype=torch.int32), 16, relu=False, axis=-1, name="result")

    return built((1, weights), body, dtype=dtype)


@pytest.mark.parametrize("name", INTEGER)
def test_a_net_of_every_operator_is_taken(name: str, targets: Mapping[str, Target]) -> None:
    assert ONNX.legalize(residual_net(), targets[name]) == ()
    assert ONNX.legalize(moving_net(), targets[name]) == ()
    assert ONNX.legalize(attending_net(), targets[name]) == ()


@pytest.mark.parametrize(
    ("program", "node", "reason"),
    [
        (one(aten.relu.default), "relu", "aten.relu.default has no emitter"),
        (one(aten.clone.default, dtype=torch.float64), "x", "torch.float64 has no storage type"),
        (one(fxp.max_pool2d.default, [2, 2], [1, 1], [2, 0, 0, 0], [3, 3]), "max_pool2d", "is not smaller than the window"),
        (built((1, 4), lambda e, x: e.call(fxp.quantize.default, x, 1.0, -40000, 40000, torch.int32)), "quantize", "wider than 16 bits"),
    ],
    ids=["operator", "type", "padding", "range"],
)
@pytest.mark.parametrize("name", INTEGER)
def test_refusals_name_the_node(name: str, program: Program, node: str, reason: str, targets: Mapping[str, Target], tmp_path: Path) -> None:
    refused = ONNX.legalize(program, targets[name])
    assert any(reason in refusal.reason and refusal.node.startswith(node) for refusal in refused)
    assert all(refusal.way_on for refusal in refused)
    with pytest.raises(BackendError):
        ONNX.lower(program, targets[name], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", INTEGER)
def test_a_padded_window_is_refused_where_onnx_runtime_fuses_the_padding(name: str, targets: Mapping[str, Target]) -> None:
    def net(value: int) -> Program:
        def body(edit: Edit, x: fx.Node) -> fx.Node:
            padded = edit.call(fxp.pad2d.default, edit.call(fxp.pad2d.default, x, [0, 0, 1, 0], value), [1, 0, 0, 0], value)
            return edit.call(fxp.max_pool2d.default, padded, [2, 2], [1, 1], [0, 1, 1, 0], [1, 1])

        return built((1, 2, 4, 4), body, dtype=torch.int8)

    (refusal,) = ONNX.legalize(net(-128), targets[name])
    assert refusal.reason == "padding [1, 1, 2, 0] is not smaller than the window"
    assert ONNX.legalize(net(-127), targets[name]) == ()


def symbolic(body: Callable[[Edit, fx.Node, fx.Node], fx.Node]) -> Program:
    """`body` gets an image of symbolic height and that height."""

    class Twice(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x

    dims = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height", max=64)}
    edit = capture(Twice(), (torch.zeros(2, 3, 4, 5, dtype=torch.int8),), dynamic_shapes={"x": dims}).edit()
    x, old = edit.graph.find_nodes(op="placeholder")[0], edit.graph.output_node().args[0][0]
    with edit.graph.inserting_before(old):
        new = body(edit, x, edit.call(aten.sym_size.int, x, 2))
    edit.replace(old, new)
    return edit.finish(stage="integer")


@pytest.mark.parametrize("name", INTEGER)
def test_symbolic_bounds_and_heights(name: str, targets: Mapping[str, Target]) -> None:
    (refusal,) = ONNX.legalize(symbolic(lambda edit, x, height: edit.call(fxp.insert_zeros.default, x, [2, 2])), targets[name])
    assert refusal.reason == "the height or width is symbolic"

    def half(edit: Edit, x: fx.Node, height: fx.Node) -> fx.Node:
        return edit.call(aten.slice.Tensor, x, 2, 0, edit.call(operator.floordiv, height, 2))

    def rest(edit: Edit, x: fx.Node, height: fx.Node) -> fx.Node:
        return edit.call(aten.slice.Tensor, x, 2, edit.call(operator.floordiv, height, 2))

    assert ONNX.legalize(symbolic(half), targets[name]) == ()
    (refusal,) = ONNX.legalize(symbolic(rest), targets[name])
    assert refusal.reason == "the start or step of the slice is symbolic"


@pytest.mark.parametrize("name", INTEGER)
def test_a_shift_beyond_16_is_refused(name: str, targets: Mapping[str, Target]) -> None:
    b = torch.tensor([3], dtype=torch.int32)
    program = built((1, 4), lambda edit, x: requantize(edit, x, b, 17, relu=False, axis=1, name="late"), dtype=torch.int8)
    (refusal,) = ONNX.legalize(program, targets[name])
    assert refusal.reason == "shift 17 is outside [1, 16]"


def test_an_accumulator_is_proved_again_over_u8_storage(targets: Mapping[str, Target]) -> None:
    """s8 reaches 128 and its u8 storage 255: 67,000 products by 127 fit int32 in the program, not in a kernel."""
    program = wide_sum(67_000, 0, torch.int8)
    verify(program)
    (refusal,) = ONNX.legalize(program, targets["onnx:qlinear"])
    assert refusal.node.startswith("linear")
    assert "over u8 storage reaches [-1089152000, 2169795000], outside int32" in refusal.reason


@pytest.mark.parametrize(("depth", "bias"), [(66_000, 2**20), (33_000, -(2**30)), (33_000, 2**30)])
def test_the_widest_accumulators_are_exact(depth: int, bias: int, same_bits: Any) -> None:
    x = torch.full((3, depth), -128, dtype=torch.int8)
    x[1], x[2, ::2] = 127, 127
    same_bits(wide_sum(depth, bias, torch.int8), x)


def test_a_float_program_is_not_for_integer_targets(targets: Mapping[str, Target]) -> None:
    program = built((1, 4), lambda edit, x: edit.call(aten.relu.default, x), stage="float")
    (refusal,) = ONNX.legalize(program, targets["onnx:int"])
    assert (refusal.node, refusal.reason) == ("program", "its stage is float")
    assert ONNX.legalize(program, targets["onnx:float"]) == ()


def test_an_operator_without_emitter_is_refused() -> None:
    poorer = Flavour("F0", "", {key: emit for key, emit in F1.emitters.items() if key is not fxp.add.default}, F1.absorbs)
    refused = refusals(residual_net(), poorer)
    assert [refusal.node for refusal in refused] == ["add_default", "add_default_1"]
