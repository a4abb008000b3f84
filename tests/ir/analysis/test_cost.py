"""Multiply-accumulates, parameters, bytes and peak memory, computed by hand."""

from __future__ import annotations

import pytest
import torch
from fxpress_ir import Edit, Program, capture
from fxpress_ir.analysis.cost import Cost
from support import aten, built, fxp
from torch import Tensor, fx, nn
from torch.export import Dim
from torch.nn import functional


def convnet() -> Program:
    """conv 3 -> 4 (3x3) on 8x8, relu, flatten, linear 144 -> 5."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    return capture(model, (torch.zeros(1, 3, 8, 8),), dynamic_shapes=({0: Dim("batch")},))


@pytest.mark.parametrize("batch", [1, 8])
def test_a_small_net_costs_what_was_computed_by_hand(batch: int) -> None:
    parameters = 4 * 3 * 9 + 4 + 5 * 144 + 5
    assert convnet().cost(batch=batch) == Cost(
        macs=batch * (4 * 36 * 27 + 5 * 144),
        parameters=parameters,
        weight_bytes=4 * parameters,
        activation_bytes=4 * batch * (144 + 144 + 5),  # conv, relu, linear; flatten is a view
        peak_memory=4 * batch * (192 + 144),  # the input and the convolution's result
    )


def test_a_named_dimension_is_1_unless_given() -> None:
    assert convnet().cost() == convnet().cost(batch=1)


def test_the_memory_behind_a_view_lives_as_long_as_the_view() -> None:
    class Viewed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            wide = torch.cat([x, x, x, x])
            flat = wide.flatten()
            return torch.cat([flat, flat])

    cost = capture(Viewed(), (torch.zeros(10),)).cost()
    assert cost.activation_bytes == 4 * (40 + 80)
    assert cost.peak_memory == 4 * (40 + 80)


def test_an_input_that_is_read_late_counts_until_then() -> None:
    class Residual(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(torch.cat([x, x])).sum() + x

    assert capture(Residual(), (torch.zeros(10),)).cost().peak_memory == 4 * (10 + 20 + 20)


def test_an_integer_program_counts_bytes_by_its_types() -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        weight = edit.add_tensor("weight", torch.ones(6, 2, 3, 3, dtype=torch.int8))
        return edit.call(fxp.conv2d.default, x, weight, None, [1, 1], [1] * 4, [1, 1], 1)

    cost = built((1, 2, 4, 4), body, dtype=torch.uint8).cost(batch=2)
    assert cost == Cost(
        macs=2 * 6 * 16 * 18, parameters=108, weight_bytes=108, activation_bytes=4 * 2 * 96, peak_memory=2 * 32 + 4 * 2 * 96
    )


def _product(body: object, *shapes: tuple[int, ...]) -> int:
    class Does(nn.Module):
        def forward(self, *xs: Tensor) -> Tensor:
            return body(*xs)  # type: ignore[operator, no-any-return]

    return capture(Does(), tuple(map(torch.zeros, shapes))).cost().macs


def _transposed(x: Tensor, weight: Tensor) -> Tensor:
    return functional.conv_transpose2d(x, weight, stride=2)


@pytest.mark.parametrize(
    ("body", "shapes", "macs"),
    [
        (torch.matmul, ((2, 3, 4), (4, 5)), 2 * 3 * 4 * 5),
        (torch.matmul, ((4,), (4,)), 4),
        (torch.bmm, ((2, 3, 4), (2, 4, 5)), 2 * 3 * 4 * 5),
        (torch.mm, ((3, 4), (4, 5)), 3 * 4 * 5),
        (torch.addmm, ((5,), (3, 4), (4, 5)), 3 * 4 * 5),
        (torch.baddbmm, ((2, 3, 5), (2, 3, 4), (2, 4, 5)), 2 * 3 * 4 * 5),
        (functional.scaled_dot_product_attention, ((2, 8, 6, 4), (2, 8, 7, 4), (2, 8, 7, 5)), 2 * 8 * 6 * 7 * (4 + 5)),
        (functional.conv1d, ((2, 3, 8), (4, 3, 3)), 2 * 4 * 6 * 9),
        (functional.conv3d, ((1, 2, 4, 4, 4), (3, 2, 2, 2, 2)), 3 * 27 * 16),
        (lambda x, w: functional.conv2d(x, w, groups=4), ((1, 4, 6, 6), (8, 1, 3, 3)), 8 * 16 * 9),
        (lambda x, w: functional.conv2d(x, w, padding="same"), ((1, 4, 6, 6), (8, 4, 3, 3)), 8 * 36 * 36),
        (_transposed, ((1, 4, 5, 5), (4, 3, 2, 2)), 25 * 4 * 3 * 4),
        (torch.add, ((2, 3), (2, 3)), 0),
    ],
)
def test_products_count_one_a_multiplication(body: object, shapes: tuple[tuple[int, ...], ...], macs: int) -> None:
    assert _product(body, *shapes) == macs


def test_a_fake_quantiser_costs_no_multiply_accumulate() -> None:
    program = built(
        (1, 3), lambda edit, x: edit.call(aten.neg.default, edit.call(fxp.fake_quantize.default, x, 0.1, 0, 255)), stage="simulated"
    )
    assert program.cost().macs == 0
