"""Booleans that hide keys are joined once, later keys apart; what is always true is dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from fxpress_ir import Edit, Program
from fxpress_passes.quantize.masks import conjuncts, is_given, is_triangle, joined
from several import several
from sketch import Sketch
from support import aten
from torch import Tensor, fx

Mask = Callable[[Edit, fx.Node], fx.Node]
BEFORE = torch.ones(9, 9, dtype=torch.bool).tril()


def _given(edit: Edit, x: fx.Node) -> fx.Node:
    return x


def _cut(values: Tensor, *dimensions: int, start: int = 0) -> Mask:
    """A table of bool [1, ...], its dimensions from `start` to the length."""

    def mask(edit: Edit, x: fx.Node) -> fx.Node:
        size = edit.call(aten.sym_size.int, x, 2)
        table = edit.call(aten.unsqueeze.default, edit.add_tensor("table", values), 0)
        for dimension in dimensions:
            table = edit.call(aten.slice.Tensor, table, dimension, start, size)
        return table

    return mask


def _triangle(edit: Edit, x: fx.Node) -> fx.Node:
    size = edit.call(aten.sym_size.int, x, 2)
    whole = edit.call(aten.ones.default, [size, size])
    whole.kwargs = {"dtype": torch.bool}
    return edit.call(aten.tril.default, whole)


def _joined(masks: Sequence[Mask], times: int = 1) -> tuple[Program, list[Any]]:
    """A program that returns what `joined` makes of masks, beside x [batch, 1, seq], and whether it hides later keys besides."""

    def body(edit: Edit, x: fx.Node) -> list[fx.Node]:
        return [edit.call(aten.clone.default, x), *(mask(edit, x) for mask in masks)]

    program = several([(("batch", 1, "seq"), torch.bool)], body, {"seq": 9})
    edit = program.edit()
    first, *given = map(edit.here, program.outputs())
    output = edit.graph.output_node()
    end = edit.call(aten.clone.default, first)
    output.prepend(end)
    found = []
    for _ in range(times):
        with edit.graph.inserting_before(end):
            found.append(joined(edit, given, end))
    output.args = ((end, *(mask for mask, _ in found if mask is not None)),)
    return edit.finish(), [causal for _, causal in found]


def _operators(program: Program) -> list[Any]:
    return [node.target for node in program.graph.nodes if node.op == "call_function" and node.target is not aten.clone.default]


JOINS: dict[str, tuple[list[Mask], bool, int]] = {
    "an input": ([_given], False, 0),
    "an input and later keys": ([_triangle, _given], True, 0),
    "a table of later keys": ([_given, _cut(BEFORE, 1, 2)], True, 0),
    "a table of others": ([_given, _cut(~BEFORE, 1, 2)], False, 1),
    "a table from the second on": ([_cut(BEFORE, 1, 2, start=1)], False, 0),
    "queries of a table, all its keys": ([_cut(BEFORE, 1)], False, 0),
    "a table that hides nothing": ([_cut(torch.ones(9, 9, dtype=torch.bool), 1, 2), _given], False, 0),
    "the same twice": ([_given, _given], False, 0),
    "none": ([], False, 0),
}


@pytest.mark.parametrize("name", JOINS)
def test_what_is_seen(name: str) -> None:
    masks, causal, joins = JOINS[name]
    program, found = _joined(masks, times=2)
    assert found == [causal, causal]
    assert _operators(program).count(aten.logical_and.default) == joins
    assert len(program.outputs()) == 1 + 2 * bool(masks)
    assert len(set(program.outputs()[1:])) == bool(masks)


def test_masks_of_fewer_dimensions_get_more() -> None:
    program, _ = _joined([lambda edit, x: edit.add_tensor("table", torch.zeros(1, 1, dtype=torch.bool)), _given])
    assert program.shape_of(program.outputs()[1]) == ("batch", 1, "seq")
    assert _operators(program) == [aten.unsqueeze.default, aten.logical_and.default]


def test_conjuncts_are_found_once() -> None:
    sketch = Sketch(3, 4, dtype=torch.bool)
    x, others = sketch.x, [sketch.tensor(3, 4, dtype=torch.bool) for _ in range(2)]
    both = sketch.call(aten.logical_and.default, x, others[0])
    either = sketch.call(aten.logical_or.default, both, x)
    assert conjuncts([sketch.call(aten.logical_and.default, both, either), others[1], x]) == [x, others[0], either, others[1]]


GIVEN: dict[str, Callable[[Sketch], fx.Node]] = {
    "an input": lambda s: s.x,
    "a moved one": lambda s: s.call(aten.expand.default, s.call(aten.unsqueeze.default, s.x, 0), [2, 3, 4]),
    "a comparison": lambda s: s.call(aten.ge.Scalar, s.x, 2),
    "logic": lambda s: s.call(aten.logical_or.default, s.call(aten.ne.Scalar, s.x, 0), s.tensor(3, 4, dtype=torch.bool)),
}
COMPUTED: dict[str, Callable[[Sketch], fx.Node]] = {
    "a sum": lambda s: s.call(aten.gt.Scalar, s.call(aten.cumsum.default, s.x, 0), 2),
    "a comparison of floats": lambda s: s.call(aten.gt.Scalar, s.tensor(3, 4), 2),
    "with half a number": lambda s: s.call(aten.gt.Scalar, s.x, 0.5),
    "logic of integers": lambda s: s.call(aten.logical_not.default, s.x),
    "a comparison of booleans": lambda s: s.call(aten.eq.Scalar, s.call(aten.gt.Scalar, s.x, 0), 1),
    "a triangle": lambda s: s.call(aten.tril.default, s.call(aten.ones.default, [4, 4], dtype=torch.bool)),
}


@pytest.mark.parametrize("name", [*GIVEN, *COMPUTED])
def test_what_integers_compute(name: str) -> None:
    sketch = Sketch(3, 4, dtype=torch.int64)
    mask = (GIVEN | COMPUTED)[name](sketch)
    assert is_given(mask) is (name in GIVEN)
    assert is_triangle(mask) is (name == "a triangle")
