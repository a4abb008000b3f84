"""Values that meet in a concatenation share a scale, unless theirs is snapped to their operands'."""

from __future__ import annotations

import torch
from fxpress_passes.quantize.decision import islands
from fxpress_passes.quantize.sharing import shared, site_of
from sketch import Sketch, attended, rotated
from torch import fx

_aten = torch.ops.aten
CAT, CONV, RELU = _aten.cat.default, _aten.conv2d.default, _aten.relu.default


def _conv(sketch: Sketch, x: fx.Node) -> fx.Node:
    return sketch.call(CONV, x, sketch.tensor(4, x.meta["val"].shape[1], 1, 1))


def _groups(sketch: Sketch, *outputs: fx.Node) -> list[set[fx.Node]]:
    recognition = sketch.recognition(*outputs)
    return [set(group) for group in shared(recognition, islands(recognition))]


def test_layers_tables_inputs_and_the_whole_share() -> None:
    sketch = Sketch()
    layer, table = _conv(sketch, sketch.x), sketch.call(_aten.sigmoid.default, sketch.x)
    whole = sketch.call(CAT, [layer, table, sketch.x], 1)
    assert _groups(sketch, whole) == [{layer, table, sketch.x, whole}]


def test_a_clamped_layer_shares_as_its_clamp() -> None:
    sketch = Sketch()
    relu = sketch.call(RELU, _conv(sketch, sketch.x))
    whole = sketch.call(CAT, [relu, sketch.x], 1)
    assert _groups(sketch, whole) == [{relu, sketch.x, whole}]


def test_what_keeps_its_operands_scale_is_its_operand() -> None:
    sketch = Sketch()
    layer = _conv(sketch, sketch.x)
    pooled = sketch.call(_aten.max_pool2d.default, sketch.call(_aten.pad.default, layer, [1, 1, 1, 1]), [3, 3], [1, 1])
    moved = sketch.call(_aten.slice.Tensor, sketch.x, 1, 0, 2)
    whole = sketch.call(CAT, [pooled, moved], 1)
    assert _groups(sketch, whole) == [{layer, sketch.x, whole}]


def test_sums_products_and_averages_keep_their_own() -> None:
    sketch = Sketch()
    layer, turned = _conv(sketch, sketch.x), sketch.call(_aten.transpose.int, sketch.x, 2, 3)
    own = [sketch.call(_aten.add.Tensor, layer, turned), sketch.call(_aten.mul.Tensor, layer, turned)]
    own.append(sketch.call(_aten.avg_pool2d.default, layer, [3, 3], [1, 1], [1, 1]))
    mixed, alone = sketch.call(CAT, [*own, layer], 1), sketch.call(CAT, own, 1)
    assert _groups(sketch, mixed, alone) == [{layer, mixed}]


def test_concatenations_that_share_a_value_are_one_group_and_others_are_not() -> None:
    sketch = Sketch()
    first, second, third, fourth = (_conv(sketch, sketch.x) for _ in range(4))
    one, two = sketch.call(CAT, [first, second], 1), sketch.call(CAT, [second, third], 1)
    nested, other = sketch.call(CAT, [one, third], 1), sketch.call(CAT, [fourth, fourth], 1)
    assert _groups(sketch, two, nested, other) == [{first, second, third, one, two, nested}, {fourth, other}]


def test_a_float_island_shares_as_a_border_and_a_concatenation_in_an_island_does_not() -> None:
    sketch = Sketch()
    integers = sketch.input("i", 2, 4, 6, 6, dtype=torch.int64)
    layer, soft = _conv(sketch, sketch.x), sketch.call(_aten.softmax.int, sketch.x, 1)
    whole = sketch.call(CAT, [layer, soft], 1)
    mixed = sketch.call(CAT, [layer, integers], 1)
    assert _groups(sketch, whole, mixed) == [{layer, soft, whole}]


def test_constants_rows_of_tables_normalised_and_turned_values_share() -> None:
    sketch = Sketch(2, 3, 4)
    ids = sketch.input("ids", 2, 3, dtype=torch.int64)
    token, rows = sketch.tensor(1, 1, 4), sketch.call(_aten.embedding.default, sketch.tensor(9, 4), ids)
    normal, spread = sketch.call(_aten.layer_norm.default, sketch.x, [4]), sketch.call(_aten.expand.default, token, [2, 1, 4])
    turned = rotated(sketch, sketch.x, sketch.tensor(3, 4), sketch.tensor(3, 4))
    whole = sketch.call(CAT, [spread, rows, normal, turned], 1)
    assert _groups(sketch, whole) == [{token, rows, normal, turned, whole}]


def test_probabilities_attention_and_products_of_two_values_keep_their_own() -> None:
    sketch = Sketch(2, 4, 4)
    own = [sketch.call(_aten.softmax.int, sketch.x, -1), sketch.call(_aten.matmul.default, sketch.x, sketch.x)]
    own.append(attended(sketch, sketch.x, sketch.x, sketch.x))
    assert _groups(sketch, sketch.call(CAT, own, 1)) == []


def test_the_site_of_a_value_is_where_its_quantizer_stands() -> None:
    sketch = Sketch()
    layer = _conv(sketch, sketch.x)
    near = sketch.call(_aten.upsample_nearest2d.vec, layer, None, [2.0, 2.0])
    piece = sketch.call(_aten.select.int, near, 1, 0)
    recognition = sketch.recognition(piece)
    assert [site_of(node, recognition) for node in (piece, near, layer, sketch.x)] == [layer, layer, layer, sketch.x]
