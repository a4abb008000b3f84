"""Any function of a few booleans, and of integers at their probes, is written in comparisons, and, or, not."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from fxpress_ir import Program, capture
from fxpress_ir.ops import LOGIC_OPERATORS
from fxpress_passes.quantize.booleans import Booleans, Seen, seen
from fxpress_passes.quantize.selections import PROBES, Atom, Selection, Selections
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

aten = torch.ops.aten
exact = settings(max_examples=60, deadline=None, derandomize=True)
TYPES = (torch.bool, torch.bool, torch.int64)


class _Together(nn.Module):
    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return a & b & (c > 0)


PROGRAM = capture(_Together(), tuple(torch.zeros(5, dtype=dtype) for dtype in TYPES))


def _written(tests: tuple[Any, ...], table: Tensor) -> tuple[Program | bool, list[Any]]:
    """A program that returns what was written, and its operators."""
    edit = PROGRAM.edit()
    atoms = tuple(Atom(edit.here(node)) for node in PROGRAM.placeholders())
    with edit.graph.inserting_before(edit.graph.output_node()):
        boolean = Booleans(edit, Selections(edit.tensors)).write(Seen(atoms, tests, table))
    if isinstance(boolean, bool):
        return boolean, []
    edit.graph.output_node().args = ((boolean,),)
    program = edit.finish()
    return program, [node.target for node in program.graph.nodes if node.op == "call_function"]


@exact
@given(st.lists(st.booleans(), min_size=8, max_size=8), st.sampled_from([(aten.ne.Scalar, 0), (aten.eq.Scalar, 1), (aten.ge.Scalar, 1)]))
def test_any_table(cells: list[bool], test: tuple[Any, int]) -> None:
    table = torch.tensor(cells).reshape(2, 2, 2)
    program, used = _written((None, None, test), table)
    assert set(used) <= LOGIC_OPERATORS
    for a, b, c in product((False, True), (False, True), PROBES):
        wanted = bool(table[int(a), int(b), int(bool(test[0](torch.tensor(c), test[1])))])
        given_ = [torch.full((5,), value, dtype=dtype) for value, dtype in zip((a, b, c), TYPES, strict=True)]
        assert (program if isinstance(program, bool) else bool(program.run(*given_)[0].all())) == wanted


def test_short_forms() -> None:
    """What is true of all or none needs no operator, what one alone decides one at most, a conjunction no negation."""
    one = torch.zeros(2, 2, 2, dtype=torch.bool)
    test = (None, None, (aten.ge.Scalar, 1))
    assert _written(test, one) == (False, [])
    assert _written(test, ~one) == (True, [])
    third = one.clone()
    third[..., 1] = True
    assert _written(test, third)[1] == [aten.ge.Scalar]
    assert _written(test, ~third)[1] == [aten.lt.Scalar]
    all_ = one.clone()
    all_[1, 1, 1] = True
    assert sorted(map(str, _written(test, all_)[1])) == ["aten.ge.Scalar", "aten.logical_and.default", "aten.logical_and.default"]


def _of_integer(values: list[float]) -> Seen | None:
    (node,) = (node for node in PROGRAM.placeholders() if node.meta["val"].dtype == torch.int64)
    return seen(Selection((Atom(node),), torch.tensor(values)), added=True)


@pytest.mark.parametrize(
    ("at", "test"),
    [
        ([-1e4, 0, 0, 0, 0], (aten.ne.Scalar, 0)),
        ([-1e4, 0, 1e4, 2e4, -2e4], (aten.eq.Scalar, 1)),
        ([-1e4, 0, -1e4, -1e4, -1e4], (aten.eq.Scalar, 1)),
        ([float("-inf"), 0, 0, 0, -50], (aten.ge.Scalar, 1)),
        ([-1e4, -1.0, 0, 0, 0], None),
        ([-49.0, 0, 0, 0, 0], None),
        ([-1e4, 0, 0, -1e4, -1e4], None),
        ([float("nan"), 0, 0, 0, 0], None),
    ],
)
def test_what_an_integer_says(at: list[float], test: tuple[Any, int] | None) -> None:
    """At 0, 1, 2, 3 and -1; numbers that are neither 0 nor hide count at 0 and 1 alone."""
    found = _of_integer(at)
    assert (None if found is None else found.tests) == (None if test is None else (test,))


def _node(program: Program) -> fx.Node:
    return program.placeholders()[0]


def test_a_boolean_is_true_where_a_key_is_seen() -> None:
    found = seen(Selection((Atom(_node(PROGRAM)),), torch.tensor([True, False])), added=False)
    assert found is not None
    assert found.table.tolist() == [True, False]
