"""Requantisation by one fused multiply-add gives the integers' bits: at ties, at clamps, and beyond what a float32 holds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fxpress_backends.tvm import cpu
from fxpress_backends.tvm.accumulators import floats_are_exact
from fxpress_backends.tvm.plan import plan
from fxpress_ir import Edit
from fxpress_ir.ops import Interval
from support import built, fxp
from torch import fx
from tvm_cases import S8, U8, Body, Check, Limits

VNNI = cpu.native(("x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4", cpu.VNNI))
SHORT: Limits = (-32768, 32767, torch.int16)
DEEP = 1100
"""Products of extreme bytes: sums beyond 2**25."""


def linear(depth: int, b: list[int], c: int, limits: Limits) -> Body:
    """Weights of one row each: all 127, all -127, single ones (which make ties where b is a power of two), random."""
    generator = torch.Generator().manual_seed(depth + c)

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        weight = torch.randint(-127, 128, (len(b), depth), generator=generator, dtype=torch.int8)
        weight[0], weight[1], weight[2:4] = 127, -127, 0
        weight[2, 0], weight[3, -1] = 1, -1
        acc = edit.call(fxp.linear.default, x, edit.add_tensor("weight", weight), None)
        factors = edit.add_tensor("b", torch.tensor(b, dtype=torch.int32))
        return edit.call(fxp.requantize.default, acc, factors, c, *limits[:2], -1, limits[2])

    return body


CASES: tuple[tuple[int, list[int], int, Limits], ...] = (
    (DEEP, [1, 32767, 2**15 - 1, 2**14, 77, 3, 2], 16, S8),
    (DEEP, [1, 1, 2, 4, 5, 3, 2], 16, U8),
    (DEEP, [8, 8, 16384, 2048, 5, 3, 2], 14, (-37, 90, torch.int8)),
    (64, [1, 1, 1, 1, 2, 3, 5], 1, S8),
    (64, [1, 3, 64, 192, 33, 31, 77], 7, (0, 6, torch.uint8)),
    (64, [512, 512, 16384, 256, 700, 900, 1000], 15, SHORT),
)


def test_bits_at_ties_clamps_and_beyond_floats(same_on_extremes: Check) -> None:
    same_on_extremes([((case[0],), torch.uint8, linear(*case)) for case in CASES])
    same_on_extremes([((case[0],), torch.int8, linear(*case)) for case in CASES])


@pytest.mark.parametrize("case", CASES)
def test_these_round_in_floats(case: Any) -> None:
    (group,) = [g for g in plan(built((1, case[0]), linear(*case), dtype=torch.uint8), VNNI).groups if "linear" in g.kernel]
    assert group.attributes["floats"] is True
    (loops,) = [g for g in plan(built((1, case[0]), linear(*case), dtype=torch.uint8), cpu.x86_64()).groups if "linear" in g.kernel]
    assert "floats" not in loops.attributes


def _exact(reach: int, b: list[int], c: int, limits: Limits, addition: dict[str, int] | None = None) -> bool:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        return edit.call(fxp.requantize.default, x, edit.add_tensor("b", torch.tensor(b)), c, *limits[:2], -1, limits[2])

    (node,) = built((1, len(b)), body, dtype=torch.int8).graph.find_nodes(op="call_function", target=fxp.requantize.default)
    draft: Any = SimpleNamespace(dot_products=True, constant=lambda named: np.array(b, np.int32))
    return floats_are_exact(draft, node, Interval.of(-reach, reach), addition) == {"floats": True}


@pytest.mark.parametrize(
    ("reach", "b", "c", "limits", "exact"),
    [
        (1 << 24, [1], 16, SHORT, True),
        ((1 << 24) + 1, [1], 16, SHORT, False),
        ((1 << 24) + 1, [1], 16, S8, True),  # beyond 2**24 the result is 256, which is clamped
        ((1 << 24) + 1, [127, 128], 16, (-32767, 32767, torch.int16), False),
        ((1 << 24) + 1, [128, 128], 16, (-32767, 32767, torch.int16), True),
        ((1 << 24) + 1, [1], 17, S8, False),
    ],
)
def test_large_accumulators_have_to_lie_beyond_the_clamp(reach: int, b: list[int], c: int, limits: Limits, exact: bool) -> None:
    assert _exact(reach, b, c, limits) is exact


def test_an_addition_has_to_be_exact() -> None:
    """255 * (own + other) up to 2**24."""
    assert _exact(99, [1], 9, (0, 255, torch.uint8), {"own": 32767, "other": 32767})
    assert _exact(99, [1], 9, (0, 255, torch.uint8), {"own": 65793, "other": 0})
    assert not _exact(99, [1], 9, (0, 255, torch.uint8), {"own": 65793, "other": -1})
