"""Shape operators and symbolic sizes: the same values in the same places, at sizes other than the example's."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fxpress_backends.onnx.integer import F1
from fxpress_backends.onnx.lower import emit
from fxpress_ir import Edit, Program, capture
from support import aten, built, fxp
from torch import Tensor, fx, nn

Check = Callable[..., None]


def counted(*shape: int) -> Tensor:
    return (torch.arange(torch.Size(shape).numel()) % 251).to(torch.uint8).reshape(shape)


@pytest.mark.parametrize(
    ("overload", "arguments"),
    [
        (aten.flatten.using_ints, (1, -1)),
        (aten.flatten.using_ints, (0, 1)),
        (aten.reshape.default, ([-1, 12],)),
        (aten.permute.default, ([0, 3, -3, 2],)),
        (aten.transpose.int, (-1, 1)),
        (aten.unsqueeze.default, (-2,)),
        (aten.squeeze.dim, (2,)),
        (aten.squeeze.dim, (1,)),
        (aten.squeeze.dims, ([1, 2],)),
        (aten.slice.Tensor, (1, 1)),
        (aten.slice.Tensor, (1, -2, sys.maxsize)),
        (aten.slice.Tensor, (-1, None, None, 3)),
        (aten.slice.Tensor, (3, 1, -1, 2)),
        (aten.slice.Tensor, (3, -9, 9)),
        (aten.select.int, (1, 2)),
        (aten.select.int, (-1, -4)),
        (aten.select.int, (0, 0)),
        (aten.expand.default, ([-1, 3, 5, 4],)),
        (aten.expand.default, ([2, -1, 3, 6, 4],)),
        (aten.expand.default, ([-1, -1, 1, 4],)),
        (aten.expand.default, ([1, -1, -1, -1, -1],)),
        (aten.contiguous.default, ()),
        (aten.clone.default, ()),
    ],
)
def test_each_operator(same_bits: Check, overload: Any, arguments: tuple[Any, ...]) -> None:
    program = built((1, 3, 1, 4), lambda edit, x: edit.call(overload, x, *arguments), dtype=torch.uint8)
    same_bits(program, counted(5, 3, 1, 4))


def test_view_by_a_size_and_its_arithmetic(same_bits: Check) -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        size = edit.call(aten.sym_size.int, x, 0)
        return edit.call(aten.view.default, x, [edit.call(operator.mul, size, 2), 6])

    same_bits(built((1, 3, 4), body, dtype=torch.uint8), counted(7, 3, 4))


class _Split(nn.Module):
    """Two dynamic dimensions, which one -1 cannot express."""

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        return (x + x).reshape(batch, length, 2, width // 2).transpose(1, 2).reshape(batch * 2, length, width // 2)


class _Join(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x + x).unsqueeze(1).flatten(2)


def with_two_sizes(model: nn.Module, length: Any, body: Callable[[Edit, fx.Node], fx.Node]) -> Program:
    """`model` over x[batch, length, 6], its float add replaced by what `body` makes of x."""
    program = capture(model, (torch.zeros(2, 4, 6, dtype=torch.uint8),), dynamic_shapes={"x": {0: torch.export.Dim("batch"), 1: length}})
    edit = program.edit()
    old = edit.here(next(node for node in program.graph.nodes if node.target is aten.add.Tensor))
    with edit.graph.inserting_before(old):
        new = body(edit, edit.here(program.placeholders()[0]))
    edit.replace(old, new)
    return edit.finish(stage="integer")


def doubled(edit: Edit, x: fx.Node) -> fx.Node:
    return edit.call(fxp.add.default, x, x, 3, 4, 3, 0, 255, torch.uint8)


def pooled(edit: Edit, x: fx.Node) -> fx.Node:
    image = edit.call(aten.unsqueeze.default, x, 1)
    return edit.call(aten.squeeze.dim, edit.call(fxp.max_pool2d.default, image, [2, 2], [2, 2], [0] * 4, [1, 1]), 1)


def test_two_symbolic_sizes_are_computed(same_bits: Check) -> None:
    program = with_two_sizes(_Split(), torch.export.Dim("length", max=64), doubled)
    same_bits(program, counted(3, 5, 6))
    kinds = [node.op_type for node in emit(program, F1).graph]
    assert {"Concat", "Mul"} <= set(kinds)
    assert kinds.count("Shape") == 2


@pytest.mark.parametrize("length", [7, 10])
def test_a_size_may_be_divided(same_bits: Check, length: int) -> None:
    program = with_two_sizes(_Join(), torch.export.Dim("length", min=2, max=64), pooled)
    same_bits(program, counted(3, length, 6))
    assert "Div" in [node.op_type for node in emit(program, F1).graph]


def test_an_expanded_size_is_another_inputs_dimension(same_bits: Check) -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        first = edit.call(aten.slice.Tensor, x, 1, 0, 1)
        sizes = [edit.call(aten.sym_size.int, x, dimension) for dimension in (0, 1)]
        return edit.call(fxp.add.default, x, edit.call(aten.expand.default, first, [*sizes, 6]), 3, 4, 3, 0, 255, torch.uint8)

    program = with_two_sizes(_Join(), torch.export.Dim("length", min=2, max=64), body)
    same_bits(program, counted(3, 9, 6))
    assert "Expand" in [node.op_type for node in emit(program, F1).graph]


@pytest.mark.parametrize(("start", "step"), [(None, 1), (0, 1), (1, 1), (0, 2)])
def test_a_size_is_the_end_of_a_slice(same_bits: Check, start: int | None, step: int) -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        half = edit.call(operator.floordiv, edit.call(aten.sym_size.int, x, 1), 2)
        return edit.call(aten.slice.Tensor, x, 1, start, half, step)

    program = with_two_sizes(_Join(), torch.export.Dim("length", min=4, max=64), body)
    for length in (5, 12):
        same_bits(program, counted(3, length, 6))


def test_rows_of_a_table_by_number(same_bits: Check) -> None:
    """s8, u8 and 16-bit rows, by ids that enter and by moved constants."""
    generator = torch.Generator().manual_seed(2)
    tables = [torch.randint(low, high, (9, 5), generator=generator).to(dtype) for low, high, dtype in
              ((-128, 128, torch.int8), (0, 256, torch.uint8), (-32768, 32768, torch.int16))]  # fmt: skip

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        rows = [edit.call(aten.embedding.default, edit.add_tensor("rows", table), x) for table in tables]
        numbers = edit.call(aten.slice.Tensor, edit.add_tensor("numbers", torch.arange(8, -1, -1)[None]), 1, 0, 4)
        places = edit.call(aten.embedding.default, edit.add_tensor("places", tables[0]), numbers)
        total = edit.call(fxp.add.default, rows[0], rows[1], 30, 20, 5, -128, 127, torch.int8)
        total = edit.call(fxp.add.default, total, places, 30, -20, 5, -128, 127, torch.int8)
        return edit.call(fxp.add.default, total, rows[2], 999, 3, 9, -128, 127, torch.int8)

    same_bits(built((1, 4), body, dtype=torch.int64), torch.randint(0, 9, (3, 4), generator=generator))


def test_movements_of_an_image_of_symbolic_height(same_bits: Check) -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        image = edit.call(aten.unsqueeze.default, x, 1)
        chosen = edit.call(fxp.select2d.default, image, [3, 0, 1], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
        joined = edit.call(fxp.concat.default, [chosen, edit.call(fxp.pad2d.default, image, [1, 3, 0, 3], 7)], 2)
        table = edit.add_tensor("table", torch.arange(256).flip(0).to(torch.uint8)[None])
        return edit.call(aten.squeeze.dim, edit.call(fxp.lut.default, joined, table, 1), 1)

    same_bits(with_two_sizes(_Join(), torch.export.Dim("length", min=4, max=64), body), counted(3, 9, 6))


def test_a_window_as_high_as_the_example_is_not_the_whole_image(same_bits: Check) -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        sums = edit.call(fxp.sum_pool2d.default, edit.call(aten.unsqueeze.default, x, 1), [4, 6], [1, 1], [0] * 4)
        return edit.call(aten.squeeze.dim, sums, 1)

    same_bits(with_two_sizes(_Join(), torch.export.Dim("length", min=4, max=64), body), counted(3, 9, 6))


def test_a_multiple_of_a_dimension_stays_one_size(same_bits: Check) -> None:
    program = with_two_sizes(_Split(), 2 * torch.export.Dim("half", max=32), doubled)
    same_bits(program, counted(3, 10, 6))
