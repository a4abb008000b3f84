"""Which nodes collapse into a function of one value, and along which axis its constants differ."""

from __future__ import annotations

import pytest
import torch
from fxpress_ir.analysis.cones import Cones, constant_axis
from sketch import Sketch

_aten = torch.ops.aten


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((), None),
        ((1,), None),
        ((1, 1, 1, 1), None),
        ((4, 1, 1), 1),
        ((1, 4, 1, 1), 1),
        ((6,), 3),
        ((6, 1), 2),
        ((4, 6, 1), "its constant differs along more than the channels"),
        ((2, 1, 1, 1), "its constant differs along more than the channels"),
    ],
)
def test_the_axis_of_a_constant(shape: tuple[int, ...], expected: int | str | None) -> None:
    sketch = Sketch()
    assert constant_axis(sketch.call(_aten.mul.Tensor, sketch.x, sketch.tensor(*shape))) == expected


def test_the_axis_of_slopes_and_of_norms_is_that_of_the_channels() -> None:
    sketch, one = Sketch(), Sketch(5)
    assert constant_axis(sketch.call(_aten.prelu.default, sketch.x, sketch.tensor(4))) == 1
    assert constant_axis(sketch.call(_aten.prelu.default, sketch.x, sketch.tensor(1))) is None
    assert constant_axis(one.call(_aten.prelu.default, one.x, one.tensor(1))) is None
    constants = [sketch.tensor(4) for _ in range(4)]
    rest = (0.1, 1e-5, False)
    assert constant_axis(sketch.call(_aten.batch_norm.default, sketch.x, *constants, False, *rest)) == 1
    training = sketch.call(_aten.batch_norm.default, sketch.x, *constants, True, *rest)
    assert constant_axis(training) == "it normalises by the batch's own statistics"


def test_a_cone_is_all_that_reads_one_value_alone() -> None:
    """hardswish in four operators: one function of x, whose tip is the last."""
    sketch = Sketch()
    three = sketch.call(_aten.add.Tensor, sketch.x, 3)
    clipped = sketch.call(_aten.relu6.default, three)
    product = sketch.call(_aten.mul.Tensor, sketch.x, clipped)
    sixth = sketch.call(_aten.div.Tensor, product, 6)
    sketch.graph.output((sixth,))
    cones = Cones(sketch.graph, ())
    assert cones.tips == {sixth}
    assert {cones.root(node) for node in (three, clipped, product, sixth)} == {sketch.x}
    assert [cones.value(node) for node in (sketch.x, three, product, sixth)] == [sketch.x, sketch.x, sketch.x, sixth]
    assert cones.inside(sixth) == [three, clipped, product, sixth]


def test_what_something_else_reads_is_a_value_and_so_is_what_stands_apart() -> None:
    sketch = Sketch()
    first = sketch.call(_aten.relu.default, sketch.x)
    second = sketch.call(_aten.sigmoid.default, first)
    third = sketch.call(_aten.mul.Tensor, first, second)
    sketch.graph.output((first, third))
    cones = Cones(sketch.graph, ())
    assert cones.tips == {first, third}
    assert (cones.root(first), cones.root(second), cones.root(third)) == (sketch.x, first, first)
    apart = Cones(sketch.graph, {first})
    assert (apart.root(first), apart.root(third), apart.value(first)) == (None, first, first)


def test_functions_of_two_values_are_no_cone() -> None:
    sketch = Sketch()
    moved = sketch.call(_aten.transpose.int, sketch.x, 2, 3)
    both = sketch.call(_aten.mul.Tensor, sketch.call(_aten.relu.default, sketch.x), sketch.call(_aten.sigmoid.default, moved))
    sketch.graph.output((both,))
    cones = Cones(sketch.graph, ())
    assert cones.root(both) is None
    assert [cones.value(used) for used in both.all_input_nodes] == both.all_input_nodes
