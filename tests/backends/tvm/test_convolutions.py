"""Depthwise and grouped convolutions, and additions in the registers of convolutions, give the bits of their operators."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fxpress_backends.tvm import cpu
from fxpress_backends.tvm.physical import Plan
from fxpress_backends.tvm.plan import plan
from fxpress_ir import Edit
from support import built, fxp
from torch import fx
from tvm_cases import BYTES, S8, S16, U8, Body, Check, convolution

VNNI = cpu.native(("x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4", cpu.VNNI))
Shape = tuple[Any, ...]

DEPTHWISE: tuple[Shape, ...] = (
    # channels, (height, width), kernel, stride, padding (top, left, bottom, right), dilation
    (16, (9, 13), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (17, (8, 8), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    (40, (11, 7), (5, 5), (1, 1), (2, 2, 2, 2), (1, 1)),
    (33, (10, 10), (5, 5), (2, 2), (1, 2, 2, 1), (1, 1)),
    (18, (7, 7), (7, 7), (1, 1), (3, 3, 3, 3), (1, 1)),
    (16, (6, 9), (1, 3), (1, 2), (0, 1, 0, 1), (1, 1)),
    (16, (9, 6), (4, 1), (3, 1), (2, 0, 1, 0), (1, 1)),
    (20, (12, 12), (3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
    (20, (12, 9), (3, 2), (2, 1), (3, 0, 3, 2), (3, 2)),
    (48, (1, 1), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (2, (3, 4), (2, 2), (1, 1), (0, 0, 0, 0), (1, 1)),
)

GROUPED: tuple[Shape, ...] = (
    # inputs, outputs, groups, (height, width), kernel, stride, padding (top, left, bottom, right), dilation
    (64, 64, 2, (5, 6), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (96, 48, 3, (5, 6), (3, 3), (2, 2), (1, 1, 1, 1), (2, 2)),
    (32, 64, 8, (4, 5), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (32, 32, 16, (4, 5), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
    (48, 96, 2, (3, 20), (1, 5), (1, 1), (0, 2, 0, 2), (1, 1)),
    (40, 40, 5, (4, 5), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (6, 32, 2, (4, 5), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (20, 40, 20, (4, 5), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (34, 17, 17, (4, 5), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
)


def cases(shapes: tuple[Shape, ...], dtype: torch.dtype) -> list[tuple[Any, torch.dtype, Body]]:
    kinds, turn = (U8, S8, None, S16), int(dtype == torch.uint8)
    return [((case[0], *case[3]), dtype, convolution(case, number, kinds[(number + turn) % 4])) for number, case in enumerate(shapes)]


@BYTES
def test_depthwise(dtype: torch.dtype, same_on_extremes: Check) -> None:
    same_on_extremes(cases(tuple((case[0], case[0], case[0], *case[1:]) for case in DEPTHWISE), dtype))


@BYTES
def test_groups(dtype: torch.dtype, same_on_extremes: Check) -> None:
    same_on_extremes(cases(GROUPED, dtype))


POINT = (24, 24, 1, (5, 6), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1))
KINDS = {"dense": (24, 24, 1, *POINT[3:]), "depthwise": (24, 24, 24, *POINT[3:]), "grouped": (24, 24, 2, *POINT[3:])}


def residual(case: Shape, multipliers: tuple[int, int], *, turned: bool = False) -> Body:
    """A convolution added to its input, either first."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        operands = (convolution(case, 1, S8)(edit, x), x)
        return edit.call(fxp.add.default, *(operands[::-1] if turned else operands), *multipliers, 14, *S8)

    return body


def two_convolutions(edit: Edit, x: fx.Node) -> fx.Node:
    left, right = (convolution(POINT, number, limits)(edit, x) for number, limits in ((1, S8), (2, U8)))
    return edit.call(fxp.add.default, right, left, 9001, -12001, 14, *U8)


def read_again(edit: Edit, x: fx.Node) -> fx.Node:
    """The convolution's own result is read twice, and the sum by a padded convolution."""
    inner = convolution(POINT, 1, S8)(edit, x)
    added = edit.call(fxp.add.default, inner, x, 9001, 12001, 14, *S8)
    padded = convolution((24, 24, 1, (5, 6), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)), 2, S8)(edit, added)
    return edit.call(fxp.add.default, padded, inner, 9001, 12001, 14, *S8)


def spread(edit: Edit, x: fx.Node) -> fx.Node:
    pooled = edit.call(fxp.max_pool2d.default, x, [5, 6], [1, 1], [0] * 4, [1, 1])
    return edit.call(fxp.add.default, convolution(POINT, 1, S8)(edit, x), convolution(POINT, 2, S8)(edit, pooled), 9001, 12001, 14, *S8)


def twice(edit: Edit, x: fx.Node) -> fx.Node:
    inner = convolution(POINT, 1, S8)(edit, x)
    return edit.call(fxp.add.default, inner, inner, 3, 2, 2, *S8)


@BYTES
def test_added_in_registers(dtype: torch.dtype, same_on_extremes: Check) -> None:
    """Both roundings are kept; of two convolutions one stays apart, as does one that is read twice or spread."""
    bodies = [residual(case, (15001, 9877)) for case in KINDS.values()]
    bodies += [residual(KINDS["dense"], (15001, -9877), turned=True), two_convolutions, read_again, spread, twice]
    same_on_extremes([((24, 5, 6), dtype, body) for body in bodies])


def made(body: Body) -> Plan:
    return plan(built((1, 24, 5, 6), body, dtype=torch.int8), VNNI)


@pytest.mark.parametrize("kind", KINDS)
def test_residuals_run_in_registers(kind: str) -> None:
    group = next(group for group in made(residual(KINDS[kind], (15001, -9877), turned=True)).groups if "add_default" in group.nodes)
    assert group.kernel == ("conv2d_depthwise" if kind == "depthwise" else "conv2d_vnni")
    assert group.nodes == ("conv2d_default", "requantize_default", "add_default")
    assert group.attributes["add"] == {"own": -9877, "other": 15001, "shift": 14, "qmin": -128, "qmax": 127}
    assert group.inputs == ("x", "x")


@pytest.mark.parametrize(("body", "apart"), [(two_convolutions, 0), (read_again, 1), (spread, 1), (twice, 1)])
def test_additions_that_stay_apart(body: Body, apart: int) -> None:
    assert [group.kernel for group in made(body).groups].count("add") == apart
