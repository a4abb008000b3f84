"""Parts without elements leave a concatenation, whose form stays; what is laid out in another order stays a copy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from float_programs import Function, applied, captured, operators
from fxpress_ir import capture, text
from fxpress_passes import Context, RemoveEmpty
from torch import Tensor


def _cached(x: Tensor) -> Tensor:
    """Keys behind a cache that is empty, as transformers begin one, and three parts of which one is empty."""
    keys = torch.cat([torch.zeros(0), x.relu()], -2)
    return torch.cat([keys, x[:, :0], keys * 2], 1).neg()


EXPECTED = """\
float program(x: float32[batch, 4, 6])
  relu = aten.relu(x) : f32[batch, 4, 6]
  mul = aten.mul.Tensor(relu, 2) : f32[batch, 4, 6]
  cat_1 = aten.cat([relu, mul], 1) : f32[batch, 8, 6]
  neg = aten.neg(cat_1) : f32[batch, 8, 6]
  return neg"""


def test_before_and_expected() -> None:
    before = captured(_cached, 1, 4, 6)
    assert operators(before).count("aten.cat") == 2
    after = applied(RemoveEmpty(), before)
    assert text(after) == EXPECTED
    assert RemoveEmpty().apply(after, Context()) is after


@pytest.mark.parametrize("dim", [1, -1])
def test_a_part_laid_out_in_another_order_stays_a_copy(dim: int) -> None:
    """The view behind it takes the strides of the concatenation alone."""
    program = captured(lambda x: torch.cat([torch.zeros(0), x.transpose(1, 2)], dim).view(x.shape[0], 24), 1, 4, 6)
    after = applied(RemoveEmpty(), program)
    assert [line.strip() for line in text(after).splitlines() if "cat" in line] == [
        f"cat = aten.cat([transpose], {dim}) : f32[batch, 6, 4]",
        "view = aten.view(cat, [sym_size_int_1, 24]) : f32[batch, 24]",
    ]


def test_sizes_that_are_dynamic_stay_symbolic() -> None:
    shapes = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("seq")},)
    before = capture(Function(lambda x: torch.cat([x[:, :0], x, torch.zeros(0)], 1) + 1), (torch.zeros(2, 5, 3),), dynamic_shapes=shapes)
    after = RemoveEmpty().apply(before, Context())
    assert operators(after) == ["aten.add.Tensor"]
    assert after.run(torch.zeros(3, 7, 3))[0].shape == (3, 7, 3)


def _wider(x: Tensor) -> Tensor:
    return torch.cat([torch.zeros(0, dtype=torch.float64), x], 1)


@pytest.mark.parametrize(
    "body",
    [
        _wider,
        lambda x: torch.cat([x[:, :0], x[:, :0]], 1),
        lambda x: torch.cat([x.to(memory_format=torch.channels_last), torch.zeros(0)], 1),
        lambda x: torch.cat([x, x], 1),
    ],
    ids=["its type is the result's", "all are empty", "its order is the result's", "none is empty"],
)
def test_what_the_result_depends_on_stays(body: Callable[[Tensor], Tensor]) -> None:
    program = captured(body, 1, 4, 6, 2)
    assert RemoveEmpty().apply(program, Context()) is program


def test_a_size_that_may_be_nothing_is_not_nothing() -> None:
    program = captured(lambda x: torch.cat([x[1:], x]), 2, 4)
    assert RemoveEmpty().apply(program, Context()) is program
