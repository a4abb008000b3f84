"""A rotation is a concatenation of two slices for each dimension that it moves; whole turns go; what is not static is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from float_programs import applied, captured, operators, refusals, untouched
from fxpress_ir.ops import arguments
from fxpress_passes import Context
from fxpress_passes.normalize.decompose_roll import DecomposeRoll
from torch import Tensor

TWO_SLICES = ["aten.slice.Tensor", "aten.slice.Tensor", "aten.cat"]


@pytest.mark.parametrize(
    ("shifts", "dims", "moved"),
    [
        ((2,), (1,), 1),
        ((-2, -2), (1, 2), 2),
        ((3, 0), (2, 1), 1),
        ((7, -13), (1, -1), 2),
        ((2, 3), (1, 1), 2),
        ((1,), (-1,), 1),
    ],
)
def test_before_and_expected(shifts: tuple[int, ...], dims: tuple[int, ...], moved: int) -> None:
    after = applied(DecomposeRoll(), captured(lambda x: x.roll(shifts, dims), 2, 6, 5, 3))
    assert operators(after) == TWO_SLICES * moved


def test_slices_and_their_order() -> None:
    after = applied(DecomposeRoll(), captured(lambda x: x.roll(-2, 1), 2, 6))
    taken = [arguments(node) for node in after.graph.find_nodes(op="call_function", target=torch.ops.aten.slice.Tensor)]
    assert [(named["dim"], named["start"], named["end"]) for named in taken] == [(1, 2, 6), (1, 0, 2)]


@pytest.mark.parametrize(("shifts", "dims"), [((0,), (0,)), ((0, 5, -10), (0, 2, 2)), ((6, 0), (1, 2))])
def test_whole_turns_go(shifts: tuple[int, ...], dims: tuple[int, ...]) -> None:
    """A shift by 0 may be along the batch, whose size is symbolic."""
    after = applied(DecomposeRoll(), captured(lambda x: x.roll(shifts, dims).relu(), 2, 6, 5))
    assert operators(after) == ["aten.relu"]


def test_what_reads_a_whole_turn_may_view_it() -> None:
    """A roll's result is contiguous, its operand need not be."""
    after = applied(DecomposeRoll(), captured(lambda x: x.transpose(1, 2).roll(5, 1).view(-1, 30), 2, 6, 5))
    assert operators(after) == ["aten.transpose.int", "aten.contiguous", "aten.view"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda x: x.roll(3), "it rolls all values as one row"),
        (lambda x: x.roll((1, 2), (1, 0)), "dimension 0, which it rolls, is symbolic"),
        (lambda x: x.roll(x.shape[0], 1), "its shift is computed"),
    ],
    ids=["flattened", "symbolic", "computed"],
)
def test_what_is_not_static_is_refused(body: Callable[[Tensor], Tensor], reason: str) -> None:
    program, context = captured(body, 2, 6, 5), Context()
    with untouched(program):
        assert DecomposeRoll().apply(program, context) is program
    assert refusals(context) == [f"roll: {reason}; it stays a roll"]


def test_a_refused_roll_leaves_the_others() -> None:
    context = Context()
    after = applied(DecomposeRoll(), captured(lambda x: x.roll(1, 0).roll(1, 1), 2, 6), context)
    assert operators(after) == ["aten.roll", *TWO_SLICES]
    assert refusals(context) == ["roll: dimension 0, which it rolls, is symbolic; it stays a roll"]
