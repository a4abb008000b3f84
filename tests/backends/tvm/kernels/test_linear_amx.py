"""linear in AMX tiles gives the operator's bits: rows and channels that fill no tile, sums of every length, extremes."""

from __future__ import annotations

import pytest
import torch
from fxpress_backends.tvm import cpu
from fxpress_backends.tvm.physical import Group
from fxpress_backends.tvm.plan import plan
from support import built
from tvm_cases import Body, Check, linear

_, VNNI, AMX = cpu.levels(())


def test_bits(same_on_extremes: Check) -> None:
    """Batches of 1 to 19 times 1 to 42 rows; 16 to 65 words; one to three vectors of channels, and weights beyond a megabyte."""
    s8, u8 = torch.int8, torch.uint8
    cases = [
        ((5, 70), s8, linear(70, 33, 1)),
        ((17, 64), u8, linear(64, 16, 2)),
        ((4, 200), s8, linear(200, 97, 3)),
        ((7, 6, 90), u8, linear(90, 1, 4)),
        ((4, 1040), s8, linear(1040, 1030, 5)),
    ]
    same_on_extremes(cases, batches=(1, 19))


def group_of(body: Body, shape: tuple[int, ...], target: cpu.Target = AMX) -> Group:
    (group,) = (group for group in plan(built(shape, body, dtype=torch.int8), target).groups if "linear_default" in group.nodes)
    return group


def test_tiles_of_rows_whose_number_is_symbolic() -> None:
    group = group_of(linear(200, 40, 1), (1, 50, 200))
    assert (group.kernel, group.attributes["tile"], group.attributes["weights_outermost"]) == ("linear_amx", [16, 2, 2], False)
    assert "emulated" not in group.attributes
    assert group_of(linear(2048, 2048, 1), (1, 50, 2048)).attributes["weights_outermost"]


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ((1, 200), "tiles want 4 rows, it has 1"),
        ((1, 8, 48), "tiles want 64 inputs, a sum has 48"),
        ((1, 8, 3), "tiles want 64 inputs, a sum has 16"),
    ],
)
def test_where_dot_products_stay(shape: tuple[int, ...], why: str) -> None:
    group = group_of(linear(shape[-1], 40, 1), shape)
    assert (group.kernel, group.why) == ("linear_vnni", why)
    assert group_of(linear(shape[-1], 40, 1), shape, VNNI).why == ""
