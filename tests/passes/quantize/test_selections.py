"""Elementwise functions of booleans and integers are tables, however they are written; others are themselves, or nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fxpress_passes.quantize.selections import PROBES, Selection, Selections
from sketch import Sketch
from torch import fx

aten = torch.ops.aten
LOWEST = torch.finfo(torch.float32).min
Body = Callable[[Sketch, fx.Node], fx.Node]


def _selection(body: Body, dtype: torch.dtype = torch.bool, *shape: int) -> tuple[Selection | None, fx.Node, fx.Node]:
    sketch = Sketch(*(shape or (3, 4)), dtype=dtype)
    node = body(sketch, sketch.x)
    return Selections(sketch.tensors).of(node), sketch.x, node


def _float(sketch: Sketch, x: fx.Node) -> fx.Node:
    return sketch.call(aten.to.dtype, x, torch.float32)


def _inverted(sketch: Sketch, x: fx.Node) -> fx.Node:
    return sketch.call(aten.rsub.Scalar, _float(sketch, x), 1.0)


BODIES: dict[str, tuple[Body, list[float]]] = {
    "itself": (lambda s, x: x, [0, 1]),
    "(1 - m) * -10000": (lambda s, x: s.call(aten.mul.Tensor, _inverted(s, x), -1e4), [-1e4, 0]),
    "filled": (
        lambda s, x: s.call(aten.masked_fill.Scalar, _inverted(s, x), s.call(aten.to.dtype, _inverted(s, x), torch.bool), LOWEST),
        [LOWEST, 0],
    ),
    "chosen": (lambda s, x: s.call(aten.where.ScalarOther, x, s.constant(torch.zeros(())), -7.0), [-7, 0]),
    "of a filled tensor": (
        lambda s, x: s.call(aten.where.self, x, s.call(aten.zeros_like.default, s.tensor(3, 4)), s.call(aten.full.default, [3, 4], -8.0)),
        [-8, 0],
    ),
    "a comparison of numbers": (lambda s, x: s.call(aten.lt.Scalar, _float(s, x), 0.5), [1, 0]),
    "a constant that is the same everywhere": (lambda s, x: s.call(aten.__and__.Tensor, x, s.tensor(3, 1, dtype=torch.bool)), [0, 1]),
    "repeated": (lambda s, x: s.call(aten.expand.default, s.call(aten.logical_not.default, x), [2, 3, 4]), [1, 0]),
}


@pytest.mark.parametrize("name", BODIES)
def test_tables_of_one_boolean(name: str) -> None:
    body, table = BODIES[name]
    found, x, node = _selection(body)
    assert found is not None
    assert [atom.node for atom in found.atoms] == [x]
    assert found.table.dtype == node.meta["val"].dtype
    assert found.table.double().tolist() == torch.tensor(table).double().tolist()


def test_integers_are_looked_at_where_masks_are_and_beside() -> None:
    found, _, _ = _selection(_inverted, torch.int64)
    assert found is not None
    assert found.table.tolist() == [1.0 - probe for probe in PROBES]
    unsigned, _, _ = _selection(_inverted, torch.uint8)
    assert unsigned is not None
    assert unsigned.table.tolist() == [1, 0, -1, -2]


def test_two_that_are_moved_alike_are_one() -> None:
    """And booleans of two shapes are two."""

    def moved(s: Sketch, x: fx.Node) -> fx.Node:
        return s.call(aten.unsqueeze.default, x, 1)

    found, x, _ = _selection(lambda s, x: s.call(aten.__and__.Tensor, moved(s, x), moved(s, s.call(aten.logical_not.default, x))))
    assert found is not None
    assert (found.atoms, found.table.tolist()) == ((), False)
    found, x, _ = _selection(lambda s, x: s.call(aten.__or__.Tensor, x, s.call(aten.transpose.int, x, 0, 1)), torch.bool, 4, 4)
    assert found is not None
    assert [(atom.node, len(atom.moves)) for atom in found.atoms] == [(x, 0), (x, 1)]
    assert found.table.tolist() == [[False, True], [True, True]]


EXACT: dict[str, Body] = {
    "a comparison of integers": lambda s, x: s.call(aten.gt.Scalar, x, 5),
    "of what is computed of them": lambda s, x: s.call(aten.eq.Scalar, s.call(aten.mul.Tensor, x, 2), 10),
    "a cast that no probe tells apart": lambda s, x: s.call(aten.to.dtype, s.call(aten.sub.Tensor, x, 7), torch.bool),
    "a sum": lambda s, x: s.call(aten.cumsum.default, x, 1),
    "a constant of several values": lambda s, x: s.constant(torch.arange(3)),
}


@pytest.mark.parametrize("name", EXACT)
def test_what_is_not_looked_into_is_itself(name: str) -> None:
    found, _, node = _selection(EXACT[name], torch.int64)
    assert found is not None
    assert [(atom.node, atom.moves) for atom in found.atoms] == [(node, ())]
    assert torch.equal(found.table, found.atoms[0].values)


NONE: dict[str, Body] = {
    "a float input": lambda s, x: s.call(aten.mul.Tensor, x, 2.0),
    "floats of several values": lambda s, x: s.constant(torch.arange(3.0)),
    "a view of what is broadcast": lambda s, x: s.call(
        aten.reshape.default,
        s.call(aten.expand.default, s.call(aten.to.dtype, s.constant(torch.eye(4) > 0), torch.float32), [3, 4, 4]),
        [12, 4],
    ),
}


@pytest.mark.parametrize("name", NONE)
def test_floats_of_others_are_nothing(name: str) -> None:
    assert _selection(NONE[name], torch.float32)[0] is None
