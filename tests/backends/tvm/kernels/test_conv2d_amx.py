"""conv2d in AMX tiles gives the operator's bits: in rows of outputs and across them, with strides, dilations, groups and odd channels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fxpress_backends.tvm import cpu
from fxpress_backends.tvm.physical import Group
from fxpress_backends.tvm.plan import plan
from fxpress_ir import Edit
from support import built, fxp
from torch import fx
from tvm_cases import S8, S16, U8, Check, convolution

AMX = cpu.levels(())[-1]
Shape = tuple[Any, ...]

CONVOLUTIONS: tuple[tuple[bool, Shape], ...] = (
    # across; inputs, outputs, groups, (height, width), kernel, stride, padding (top, left, bottom, right), dilation
    (True, (17, 33, 1, (7, 7), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))),
    (True, (64, 81, 1, (5, 20), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1))),
    (False, (40, 20, 1, (9, 11), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1))),
    (False, (80, 33, 1, (8, 17), (2, 3), (1, 2), (2, 0, 1, 3), (1, 1))),
    (True, (32, 16, 1, (8, 6), (3, 2), (1, 1), (0, 2, 3, 1), (2, 3))),
    (False, (3, 16, 1, (9, 33), (7, 7), (2, 2), (3, 3, 3, 3), (1, 1))),
    (True, (96, 144, 3, (4, 7), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))),
    (True, (64, 64, 8, (6, 7), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))),
    (True, (1040, 1030, 1, (4, 4), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1))),
    (False, (64, 16, 1, (1, 4), (1, 3), (1, 1), (0, 1, 0, 1), (1, 1))),
)


def test_bits(same_on_extremes: Check) -> None:
    kinds = (U8, S8, None, S16)
    same_on_extremes(
        [
            ((case[0], *case[3]), (torch.int8, torch.uint8)[number // 2 % 2], convolution(case, number, kinds[number % 4]))
            for number, (_, case) in enumerate(CONVOLUTIONS)
        ]
    )


def test_a_sum_in_registers_and_a_halo_that_two_share(same_on_extremes: Check) -> None:
    """An addition runs after the requantisation; its result is read with two paddings, which sums between rows would spoil."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        inner = convolution((64, 64, 1, (5, 6), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)), 1, S8)(edit, x)
        added = edit.call(fxp.add.default, inner, x, 15001, -9877, 14, *S8)
        wide = convolution((64, 24, 1, (5, 6), (5, 5), (1, 1), (2, 3, 2, 1), (1, 1)), 2, S8)(edit, added)
        narrow = convolution((64, 24, 1, (5, 6), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)), 3, U8)(edit, added)
        return edit.call(fxp.add.default, wide, narrow, 13001, 9001, 14, *S8)

    same_on_extremes([((64, 5, 6), torch.int8, body)])


def group_of(case: Shape) -> Group:
    program = built((1, case[0], *case[3]), convolution(case, 1, S8), dtype=torch.int8)
    (group,) = (group for group in plan(program, AMX).groups if "conv2d_default" in group.nodes)
    return group


@pytest.mark.parametrize(("across", "case"), CONVOLUTIONS)
def test_tiles_run_across_rows_where_that_is_sooner(across: bool, case: Shape) -> None:
    group = group_of(case)
    assert (group.kernel, group.attributes["across"], group.why) == ("conv2d_amx", across, "")


@pytest.mark.parametrize(
    ("case", "kernel", "why"),
    [
        ((64, 64, 64, (9, 9), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)), "conv2d_depthwise", "tiles would be zeros but for one input"),
        ((64, 64, 1, (1, 1), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)), "conv2d_vnni", "tiles want 4 rows, it has 1"),
        ((3, 64, 1, (9, 9), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)), "conv2d_vnni", "tiles want 16 bytes side by side, it has 12"),
        ((16, 64, 1, (9, 9), (1, 3), (1, 1), (0, 1, 0, 1), (1, 1)), "conv2d_vnni", "tiles want 64 inputs, a sum has 48"),
    ],
)
def test_where_dot_products_stay(case: Shape, kernel: str, why: str) -> None:
    group = group_of(case)
    assert (group.kernel, group.why) == (kernel, why)
