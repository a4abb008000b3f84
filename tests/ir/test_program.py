"""A program runs what fits its signature, has one identity, and notices when its tensors are changed under it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from fxpress_ir import Program, capture
from fxpress_ir.errors import InputError, ProgramError
from support import aten, residual_net
from torch import Tensor, nn
from torch.export import Dim


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 4)

    def forward(self, x: Tensor, y: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(x) + y, index + 1


def joined(model: nn.Module | None = None, most: int | None = 4) -> Program:
    example = (torch.zeros(1, 3), torch.zeros(1, 4), torch.zeros(2, dtype=torch.int64))
    batch = Dim("batch", max=most) if most else Dim("batch")
    return capture(model or Joined(), example, dynamic_shapes={"x": {0: batch}, "y": {0: batch}, "index": None})


X, Y, INDEX = torch.ones(3, 3), torch.ones(3, 4), torch.zeros(2, dtype=torch.int64)


def test_a_program_runs_like_its_model_without_gradients() -> None:
    model = Joined()
    found, expected = joined(model).run(X, Y, INDEX), model(X, Y, INDEX)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert not found[0].requires_grad


def test_arrays_and_lists_are_taken_as_tensors() -> None:
    program = joined()
    expected = program.run(X, Y, INDEX)
    assert all(torch.equal(*pair) for pair in zip(program.run(X.numpy(), Y.numpy().tolist(), np.zeros(2, np.int64)), expected, strict=True))


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ((X, Y), "2 inputs given, 3 expected"),
        ((X, Y, INDEX, X), "4 inputs given, 3 expected"),
        ((X.double(), Y, INDEX), r"input 'x': dtype is torch\.float64, expected torch\.float32"),
        ((X, Y, INDEX.int()), r"input 'index': dtype is torch\.int32"),
        ((X[0], Y, INDEX), r"input 'x': shape \[3\] has 1 dimensions"),
        ((X[:, :2], Y, INDEX), "input 'x': dimension 1 is 2, expected 3"),
        ((X, Y[:2], INDEX), "input 'y': dimension 'batch' is 2 here and 3 before"),
        ((X.repeat(2, 1), Y.repeat(2, 1), INDEX), r"input 'x': dimension 'batch' is 6, outside \[1, 4\]"),
        ((X[:0], Y[:0], INDEX), r"dimension 'batch' is 0, outside \[1, 4\]"),
        ((None, Y, INDEX), "input 'x': is a NoneType; pass a tensor x: float32"),
        (("x", Y, INDEX), "input 'x': is a str"),
    ],
)
def test_what_does_not_fit_the_signature_is_refused(inputs: tuple[Any, ...], reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        joined().run(*inputs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_no_integer_has_is_refused_by_an_integer_program_only(value: float) -> None:
    x = torch.zeros(1, 3, 8, 8)
    x[0, 0, 0, 0] = value
    with pytest.raises(InputError, match="input 'x': holds NaN or infinity"):
        residual_net().run(x)
    joined().run(torch.full((3, 3), value), Y, INDEX)


def test_the_hash_is_a_function_of_the_value() -> None:
    assert joined().hash == joined().hash
    program = joined()
    assert program.hash == program.hash == program.edit().finish().hash
    assert program.hash == program.noted("a pass").hash
    assert residual_net().hash == residual_net().hash != residual_net(1).hash


def _with(program: Program, **tensors: Tensor) -> Program:
    edit = program.edit()
    edit.tensors.update(tensors)
    return edit.finish()


def test_the_hash_sees_weights_graph_stage_and_signature() -> None:
    program = joined()
    weight = program.tensors["linear.weight"].detach()
    nudged = weight.clone()
    nudged[0, 0] = torch.nextafter(nudged[0, 0], torch.tensor(9.0))
    edit = program.edit()
    node = edit.graph.find_nodes(op="call_function", target=aten.add.Tensor)[0]
    node.kwargs = {"alpha": 2}
    others = [
        _with(program, **{"linear.weight": nudged}),
        edit.finish(),
        program.edit().finish(stage="simulated"),
        joined(most=5),
        joined(most=None),
        Program(program.graph, program.tensors, (dataclasses.replace(program.inputs[0], name="z"), *program.inputs[1:])),
    ]
    hashes = [program.hash, *(other.hash for other in others)]
    assert len(set(hashes)) == len(hashes)
    assert _with(program, **{"linear.weight": weight.clone()}).hash == program.hash


@pytest.mark.parametrize("use", [lambda p: p.run(X, Y, INDEX), lambda p: p.hash, lambda p: p.edit(), lambda p: p.noted("pass")])
def test_training_the_source_in_place_is_noticed(use: Any) -> None:
    model = Joined()
    program = joined(model)
    program.run(X, Y, INDEX)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(X, Y, INDEX)[0].sum().backward()
    optimizer.step()
    with pytest.raises(
        ProgramError, match=r"linear\.(weight|bias): tensor was changed in place under the program; capture the model again"
    ):
        use(program)
    joined(model).run(X, Y, INDEX)


def test_a_program_cannot_be_changed() -> None:
    program = joined()
    with pytest.raises(dataclasses.FrozenInstanceError):
        program.stage = "integer"  # type: ignore[misc]
    with pytest.raises(TypeError):
        program.tensors["linear.weight"] = X  # type: ignore[index]
    with pytest.raises(ProgramError, match="unknown stage 'int'; one of float, simulated, mixed, integer"):
        Program(program.graph, program.tensors, program.inputs, "int")


def test_history_grows_by_notes_and_survives_edits() -> None:
    program = joined().noted("fold").noted("quantize{bits=8}")
    assert program.history == program.edit().finish().history == ("fold", "quantize{bits=8}")


def test_examples_have_the_signature_s_shapes() -> None:
    program = joined()
    assert [tuple(tensor.shape) for tensor in program.example()] == [(2, 3), (2, 4), (2,)]
    assert [tuple(tensor.shape) for tensor in program.example(batch=4)] == [(4, 3), (4, 4), (2,)]
    narrow = capture(nn.ReLU(), (torch.zeros(6, 3, dtype=torch.int8),), dynamic_shapes=({0: Dim("n", min=5, max=9)},))
    assert [(tuple(tensor.shape), tensor.dtype) for tensor in narrow.example()] == [((5, 3), torch.int8)]


@pytest.mark.parametrize("ask", [lambda program: program.example(bacth=4), lambda program: program.cost(bacth=4)])
def test_a_dimension_that_does_not_exist_is_refused(ask: Any) -> None:
    with pytest.raises(ProgramError, match="no dimension is named 'bacth'; the program's dynamic dimensions: batch"):
        ask(joined())


def test_shapes_print_in_the_user_s_names() -> None:
    class Doubled(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.cat([x.flatten(0, 1), y])

    program = capture(
        Doubled(), (torch.zeros(1, 1, 4), torch.zeros(1, 4)), dynamic_shapes=({0: Dim("batch"), 1: Dim("tokens")}, {0: Dim("rest")})
    )
    (joint, width) = program.shape_of(program.outputs()[0])
    assert sorted(str(joint).replace("*", " ").replace("+", " ").split()) == ["batch", "rest", "tokens"]
    assert width == 4
