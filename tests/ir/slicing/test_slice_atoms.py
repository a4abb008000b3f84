"""Before and after: tensors, shape arguments, counts of groups, scales; nothing else moves."""

from __future__ import annotations

import math

import torch
from coupled import captured, drawn
from fxpress_ir import capture
from fxpress_ir.ops import arguments
from fxpress_ir.slicing import slice_atoms
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional

_aten = torch.ops.aten


class Wide(nn.Module):
    """Three groups of channels, one of which leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(3, 6, bias=False), nn.Linear(6, 2, bias=False)
        self.b = nn.Conv1d(6, 6, 1, groups=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x).transpose(1, 2)).view(-1, 3, 2, 5) * torch.ones(3, 1, 1)
        made: Tensor = self.head(y.reshape(-1, 6, 5).transpose(1, 2))
        return made


def test_before_and_after() -> None:
    program = capture(drawn(Wide()), (torch.randn(2, 5, 3),), dynamic_shapes={"x": {0: Dim("batch")}})
    assert slice_atoms(program, {}) is program
    before = str(program)
    after = slice_atoms(program, {"a": (0, 2)})
    assert str(program) == before
    assert (
        str(after)
        == """\
float program(x: float32[batch, 5, 3])
  %a.weight : f32[4, 3]
  %b.weight : f32[4, 2, 1]
  %head.weight : f32[2, 4]
  linear = aten.linear(x, %a.weight) : f32[batch, 5, 4]
  transpose = aten.transpose.int(linear, 1, 2) : f32[batch, 4, 5]
  conv1d = aten.conv1d(transpose, %b.weight, None, [1], [0], [1], 2) : f32[batch, 4, 5]
  view = aten.view(conv1d, [-1, 2, 2, 5]) : f32[batch, 2, 2, 5]
  ones = aten.ones([2, 1, 1], device=device(type='cpu'), pin_memory=False) : f32[2, 1, 1]
  mul = aten.mul.Tensor(view, ones) : f32[batch, 2, 2, 5]
  reshape = aten.reshape(mul, [-1, 4, 5]) : f32[batch, 4, 5]
  transpose_1 = aten.transpose.int(reshape, 1, 2) : f32[batch, 5, 4]
  linear_1 = aten.linear(transpose_1, %head.weight) : f32[batch, 5, 2]
  return linear_1"""
    )


class Norms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Conv1d(3, 6, 1), nn.Conv1d(6, 2, 1)
        self.groups, self.layer = nn.GroupNorm(3, 6), nn.LayerNorm([6])

    def forward(self, x: Tensor) -> Tensor:
        y = functional.pad(self.groups(self.a(x)), (0, 0, 0, 0))
        made: Tensor = self.c(self.layer(y.mT).mT)
        return made


def test_counts_of_groups_and_shapes_of_norms() -> None:
    program = slice_atoms(captured(Norms(), torch.randn(2, 3, 5)), {"a": (0, 2)})
    (group_norm,) = program.graph.find_nodes(op="call_function", target=_aten.group_norm.default)
    (layer_norm,) = program.graph.find_nodes(op="call_function", target=_aten.layer_norm.default)
    assert arguments(group_norm)["num_groups"] == 2
    assert arguments(layer_norm)["normalized_shape"] == [4]
    assert program.tensors["c.weight"].shape == (2, 4, 1)


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.v, self.o = nn.Linear(3, 8), nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.o(functional.scaled_dot_product_attention(self.q(x), self.q(x), self.v(x)))
        return made


def test_the_implicit_scale_is_that_of_the_whole_head() -> None:
    program = captured(Head(), torch.randn(2, 5, 3))
    for keep, scale in (({"q": (1, 2, 5)}, 1 / math.sqrt(8)), ({"v": (1, 2)}, None)):
        sliced = slice_atoms(program, keep)
        (attention,) = sliced.graph.find_nodes(op="call_function", target=_aten.scaled_dot_product_attention.default)
        assert arguments(attention)["scale"] == scale


class Pieces(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.left, self.right = nn.Linear(3, 8), nn.Linear(4, 2), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        made: Tensor = self.left(y.chunk(2, -1)[0]) + self.right(functional.pad(y[:, 4:], (0, 1), value=1.0))
        return made


def test_pieces_shrink_apart() -> None:
    program = captured(Pieces(), torch.randn(2, 3))
    sliced = slice_atoms(program, {"a": (0, 3), "a#2": (1,)})
    assert sliced.tensors["a.weight"].shape == (3, 3)
    assert torch.equal(sliced.tensors["a.weight"], program.tensors["a.weight"][[0, 3, 5]])
    (split,) = sliced.graph.find_nodes(op="call_function", target=_aten.split_with_sizes.default)
    (cut,) = sliced.graph.find_nodes(op="call_function", target=_aten.slice.Tensor)
    assert (split.args[1:], cut.args[1:]) == (([2, 1], 1), (1, 2, 3))
    assert sliced.tensors["right.weight"].shape == (2, 2)


def test_tensors_that_keep_their_shape_are_shared() -> None:
    program = captured(Pieces(), torch.randn(2, 3))
    sliced = slice_atoms(program, {"a": (0, 3)})
    assert sliced.tensors["right.weight"] is program.tensors["right.weight"]
    assert sliced.inputs == program.inputs
