"""The values of 16 bits: what normalisations read, and what the sums and moves between them read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fxpress_passes.quantize.decision import islands
from fxpress_passes.quantize.recognized import Recognized
from fxpress_passes.quantize.stream import BYTES_ONLY, reads_short, rotations, stream
from sketch import Sketch
from torch import Tensor, fx

_aten = torch.ops.aten
ADD, MUL, CAT, GELU, LINEAR = _aten.add.Tensor, _aten.mul.Tensor, _aten.cat.default, _aten.gelu.default, _aten.linear.default
SHAPE = (2, 3, 4)
Members = set[fx.Node]


def _norm(s: Sketch, x: fx.Node) -> fx.Node:
    return s.call(_aten.layer_norm.default, x, [4])


def _line(s: Sketch, x: fx.Node) -> fx.Node:
    return s.call(LINEAR, x, s.tensor(4, 4))


def _pre_norm(s: Sketch) -> tuple[fx.Node, Members]:
    """x + f(norm(x)), twice."""
    inner = _line(s, _norm(s, s.x))
    first = s.call(ADD, s.x, inner)
    other = _line(s, s.call(GELU, _line(s, _norm(s, first))))
    second = s.call(ADD, first, other)
    return _line(s, _norm(s, second)), {s.x, inner, first, other, second}


def _post_norm(s: Sketch) -> tuple[fx.Node, Members]:
    """norm(x + f(x)): the normalised value is read by the next sum."""
    inner = _line(s, s.x)
    first = s.call(ADD, s.x, inner)
    normal = _norm(s, first)
    other = _line(s, normal)
    second = s.call(ADD, normal, other)
    return _line(s, _norm(s, second)), {s.x, inner, first, normal, other, second}


def _class_token(s: Sketch) -> tuple[fx.Node, Members]:
    """cat(token, layer(x)) + positions, positions and token constants; what meets in a concatenation shares a scale."""
    layer, token, positions = _line(s, s.x), s.tensor(1, 1, 4), s.tensor(1, 4, 4)
    spread = s.call(_aten.expand.default, token, [2, -1, -1])
    joined = s.call(CAT, [spread, layer], 1)
    summed = s.call(ADD, joined, positions)
    return _line(s, _norm(s, summed)), {layer, token, positions, spread, joined, summed}


def _table_between(s: Sketch) -> tuple[fx.Node, Members]:
    layer = _line(s, s.x)
    table = s.call(GELU, layer)
    return _line(s, _norm(s, table)), {layer, table}


def _moves_between(s: Sketch) -> tuple[fx.Node, Members]:
    """A value that is cut and turned keeps its scale, so the value behind it has 16 bits."""
    layer = _line(s, s.x)
    cut = s.call(_aten.slice.Tensor, layer, 1, 0, 2)
    turned = s.call(_aten.transpose.int, cut, 0, 1)
    return _line(s, _norm(s, turned)), {layer, cut, turned}


def _products_end_it(s: Sketch) -> tuple[fx.Node, Members]:
    """Products, sums of products and attention make new values of 16 bits out of operands of 8."""
    layer, other = _line(s, s.x), _line(s, s.x)
    gated = s.call(MUL, layer, other)
    mixed = s.call(_aten.matmul.default, gated, s.call(_aten.transpose.int, other, 1, 2))
    rows = s.call(_aten.matmul.default, mixed, layer)
    return _line(s, _norm(s, rows)), {rows}


def _normalised_output(s: Sketch) -> tuple[fx.Node, Members]:
    layer = _line(s, s.x)
    normal = _norm(s, layer)
    return normal, {layer, normal}


def _shared(s: Sketch) -> tuple[fx.Node, Members]:
    """A concatenation outside the stream draws in what it shares a scale with."""
    layer, other = _line(s, s.x), _line(s, s.x)
    joined = s.call(CAT, [layer, other], 1)
    normal = _line(s, _norm(s, other))
    return s.call(CAT, [_line(s, joined), normal], 1), {layer, other, joined}


def _none(s: Sketch) -> tuple[fx.Node, Members]:
    layer = _line(s, s.x)
    return s.call(ADD, layer, s.call(_aten.softmax.int, layer, -1)), set()


def _behind_an_island(s: Sketch) -> tuple[fx.Node, Members]:
    """A norm in floats asks for nothing; an island's value that a norm reads has 16 bits, and what the island reads not."""
    layer = _line(s, s.x)
    island = s.call(_aten.cumsum.default, layer, 1)
    floating = s.call(_aten.layer_norm.default, layer, [3, 4])
    return s.call(ADD, _line(s, _norm(s, island)), floating), {island}


GRAPHS: dict[str, Callable[[Sketch], tuple[fx.Node, Members]]] = {
    "pre-norm": _pre_norm,
    "post-norm": _post_norm,
    "a class token": _class_token,
    "a table between": _table_between,
    "moves between": _moves_between,
    "products end it": _products_end_it,
    "a normalised output": _normalised_output,
    "what shares a scale": _shared,
    "no norm": _none,
    "behind an island": _behind_an_island,
}


@pytest.mark.parametrize("name", GRAPHS)
def test_members(name: str) -> None:
    sketch = Sketch(*SHAPE)
    result, expected = GRAPHS[name](sketch)
    recognition = sketch.recognition(result)
    assert stream(recognition, islands(recognition)) == expected


def test_a_normalised_value_that_also_leaves_is_a_member() -> None:
    sketch = Sketch(*SHAPE)
    normal = _norm(sketch, sketch.x)
    recognition = sketch.recognition(_line(sketch, normal), normal)
    assert stream(recognition, {}) == {sketch.x, normal}


def test_who_reads_16_bits() -> None:
    """Norms always, sums and moves where their result has them, and layers never."""
    sketch = Sketch(*SHAPE)
    x, y = sketch.x, sketch.call(_aten.transpose.int, sketch.x, 0, 0)
    node = sketch.call(ADD, x, y)
    inside, outside = frozenset({node}), frozenset[fx.Node]()
    assert reads_short(node, Recognized("normalize", (x,)), outside)
    for kind in ("add", "concat", "move", "table", "pad", "maximum"):
        assert reads_short(node, Recognized(kind, (x, y)), inside)
        assert not reads_short(node, Recognized(kind, (x, y)), outside)
    for kind in ("weighted", "product", "rotary", *BYTES_ONLY):
        assert not reads_short(node, Recognized(kind, (x, y)), inside)


HADAMARD = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2


@pytest.mark.parametrize(("weight", "rotates"), [(HADAMARD, True), (HADAMARD.abs(), False), (torch.eye(4), False)])
def test_what_a_rotation_reads_is_a_member(weight: Tensor, rotates: bool) -> None:
    """Through moves; what it gives is none, and neither is what a product multiplies."""
    sketch = Sketch(*SHAPE)
    gated = sketch.call(MUL, sketch.x, _line(sketch, sketch.x))
    turned = sketch.call(_aten.transpose.int, gated, 0, 1)
    rotated = sketch.call(LINEAR, turned, sketch.constant(weight))
    recognition = sketch.recognition(_line(sketch, rotated), _line(sketch, turned))
    rotating = rotations(recognition, sketch.tensors)
    assert rotating == ({rotated} if rotates else set())
    assert stream(recognition, {}, rotating) == ({gated, turned} if rotates else set())


def test_a_rotation_reads_16_bits() -> None:
    sketch = Sketch(*SHAPE)
    rotated, other, what = _line(sketch, sketch.x), _line(sketch, sketch.x), Recognized("weighted", (sketch.x,))
    assert reads_short(rotated, what, frozenset(), frozenset({rotated}))
    assert not reads_short(other, what, frozenset({sketch.x}), frozenset({rotated}))
