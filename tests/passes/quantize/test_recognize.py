"""What each operator is in integers, or the reason why it is nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fxpress_ir import capture
from fxpress_passes.quantize.recognize import Recognized, Window, fused_rectifier, recognize
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import fx, nn
from torch.nn import functional

_aten, _fxp = torch.ops.aten, torch.ops.fxp


class Sketch:
    """A graph written by hand: an input x, tensors, and calls with the shapes of their results."""

    def __init__(self, *shape: int, dtype: torch.dtype = torch.float32) -> None:
        self.graph = fx.Graph()
        self.x = self.graph.placeholder("x")
        self.x.meta["val"] = torch.zeros(shape, dtype=dtype)

    def tensor(self, *shape: int, dtype: torch.dtype = torch.float32) -> fx.Node:
        node = self.graph.create_node("get_attr", "w")
        node.meta["val"] = torch.ones(shape, dtype=dtype)
        return node

    def call(self, target: Any, *args: Any) -> fx.Node:
        node = self.graph.call_function(target, args)
        node.meta["val"] = target(*fx.node.map_arg(args, lambda used: used.meta["val"]))
        return node


IMAGE = (2, 4, 6, 6)


def _image() -> tuple[Sketch, fx.Node]:
    sketch = Sketch(*IMAGE)
    return sketch, sketch.x


def test_a_convolution_is_a_weighted_sum_over_a_window() -> None:
    sketch, x = _image()
    weight, bias = sketch.tensor(8, 2, 3, 1), sketch.tensor(8)
    plain = sketch.call(_aten.conv2d.default, x, sketch.tensor(8, 4, 2, 2))
    assert recognize(plain) == Recognized("weighted", (x,), plain.args[1], None, Window((2, 2), (1, 1)))  # type: ignore[arg-type]
    node = sketch.call(_aten.conv2d.default, x, weight, bias, [2, 1], [1, 3], [1, 2], 2)
    window = Window((3, 1), (2, 1), (1, 3, 1, 3), (1, 2))
    assert recognize(node) == Recognized("weighted", (x,), weight, bias, window, groups=2)


def test_a_linear_is_a_weighted_sum_of_any_rank() -> None:
    for shape in ((6,), (2, 6), (2, 5, 6)):
        sketch = Sketch(*shape)
        weight = sketch.tensor(3, 6)
        assert recognize(sketch.call(_aten.linear.default, sketch.x, weight)) == Recognized("weighted", (sketch.x,), weight)


def test_a_weight_may_stand_behind_a_fake_quantizer() -> None:
    sketch, x = _image()
    quantized = sketch.call(_fxp.fake_quantize_channels.default, sketch.tensor(8, 4, 1, 1), sketch.tensor(8), 0, -127, 127)
    what = recognize(sketch.call(_aten.conv2d.default, x, quantized))
    assert isinstance(what, Recognized)
    assert what.weight is quantized


def test_an_add_of_two_values_of_one_shape() -> None:
    sketch, x = _image()
    y = sketch.call(_aten.relu.default, x)
    assert recognize(sketch.call(_aten.add.Tensor, x, y)) == Recognized("add", (x, y))
    assert recognize(sketch.call(_aten.add.Tensor, x, x)) == Recognized("add", (x, x))


@pytest.mark.parametrize(
    ("target", "args", "window", "divisor", "keeps_rank"),
    [
        (_aten.avg_pool2d.default, ([2, 3],), Window((2, 3), (2, 3)), 6, True),
        (_aten.avg_pool2d.default, ([3], [2, 1], [1, 1]), Window((3, 3), (2, 1), (1, 1, 1, 1)), 9, True),
        (_aten.avg_pool2d.default, ([2, 2], [2, 2], [0, 0], False, False), Window((2, 2), (2, 2)), 4, True),
        (_aten.avg_pool2d.default, ([2, 2], [1, 1], [0, 0], False, True, 5), Window((2, 2), (1, 1)), 5, True),
        (_aten.adaptive_avg_pool2d.default, ([1, 1],), Window((6, 6), (6, 6)), 36, True),
        (_aten.adaptive_avg_pool2d.default, ([3, 2],), Window((2, 3), (2, 3)), 6, True),
        (_aten.mean.dim, ([2, 3], True), Window((6, 6), (6, 6)), 36, True),
        (_aten.mean.dim, ([-1, -2],), Window((6, 6), (6, 6)), 36, False),
    ],
)
def test_averages(target: Any, args: tuple[Any, ...], window: Window, divisor: int, keeps_rank: bool) -> None:
    sketch, x = _image()
    expected = Recognized("average", (x,), window=window, divisor=divisor, keeps_rank=keeps_rank)
    assert recognize(sketch.call(target, x, *args)) == expected


@pytest.mark.parametrize(
    ("args", "window"),
    [
        (([2, 2],), Window((2, 2), (2, 2))),
        (([3, 3], [2, 2], [1, 1]), Window((3, 3), (2, 2), (1, 1, 1, 1))),
        (([2, 2], [1, 2], [0, 1], [2, 1]), Window((2, 2), (1, 2), (0, 1, 0, 1), (2, 1))),
        (([3, 3], [2, 2], [0, 0], [1, 1], True), Window((3, 3), (2, 2), (0, 0, 1, 1))),
        (([2, 2], [2, 2], [0, 0], [1, 1], True), Window((2, 2), (2, 2))),
    ],
)
def test_maxima(args: tuple[Any, ...], window: Window) -> None:
    sketch, x = _image()
    assert recognize(sketch.call(_aten.max_pool2d.default, x, *args)) == Recognized("maximum", (x,), window=window)


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(0, 2),
    st.integers(1, 3),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_the_window_of_a_maximum_gives_the_integer_operator_the_same_values(
    size: tuple[int, int], kernel: int, stride: int, padding: int, dilation: int, ceil: bool, seed: int
) -> None:
    padding = min(padding, kernel // 2)
    reach = dilation * (kernel - 1) + 1
    assume(min(size) + 2 * padding >= reach)
    x = torch.randint(-128, 128, (2, 3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    expected = functional.max_pool2d(x.float(), kernel, stride, padding, dilation, ceil)
    assume(bool(expected.isfinite().all()))  # a window of padding alone has no maximum
    sketch = Sketch(*x.shape)
    node = sketch.call(_aten.max_pool2d.default, sketch.x, [kernel] * 2, [stride] * 2, [padding] * 2, [dilation] * 2, ceil)
    what = recognize(node)
    assert isinstance(what, Recognized)
    assert what.window is not None
    window = what.window
    found = _fxp.max_pool2d(x, [*window.kernel], [*window.stride], [*window.padding], [*window.dilation])
    assert torch.equal(found.float(), expected)


@pytest.mark.parametrize(
    ("target", "args"),
    [
        (_aten.flatten.using_ints, (1,)),
        (_aten.view.default, ([2, -1],)),
        (_aten.permute.default, ([0, 2, 3, 1],)),
        (_aten.transpose.int, (1, 2)),
        (_aten.unsqueeze.default, (0,)),
        (_aten.contiguous.default, ()),
    ],
)
def test_shape_operators_are_moves(target: Any, args: tuple[Any, ...]) -> None:
    sketch, x = _image()
    assert recognize(sketch.call(target, x, *args)) == Recognized("move", (x,))


def test_a_relu_is_a_rectifier() -> None:
    sketch, x = _image()
    assert recognize(sketch.call(_aten.relu.default, x)) == Recognized("rectify", (x,))


def _computed(sketch: Sketch, *shape: int) -> fx.Node:
    return sketch.call(_aten.neg.default, sketch.tensor(*shape))


def _refused(sketch: Sketch, x: fx.Node) -> dict[str, fx.Node]:
    """Reason ==> a node that has it."""
    call, tensor = sketch.call, sketch.tensor
    one, image = Sketch(4, 6, 6), [[2, 2], [2, 2], [0, 0], [1, 1]]
    double, integer = Sketch(2, 6, dtype=torch.float64), Sketch(2, 3, dtype=torch.int64)
    converted = integer.call(_aten.to.dtype, integer.x, torch.float32)
    padded = [[3, 3], [2, 2], [1, 1], False, False]
    return {
        "aten.sigmoid.default has no integer form": call(_aten.sigmoid.default, x),
        "aten.conv2d.padding has no integer form": call(_aten.conv2d.padding, x, tensor(4, 4, 3, 3), None, [1, 1], "same"),
        "it adds a number": call(_aten.add.Tensor, x, 1.5),
        "it scales its second operand by 2": _scaled(sketch, x),
        "it adds a constant tensor": call(_aten.add.Tensor, x, tensor(*IMAGE)),
        "it broadcasts one operand": call(_aten.add.Tensor, x, call(_aten.mean.dim, x, [2, 3], True)),
        "its weight is computed, not constant": call(_aten.conv2d.default, x, _computed(sketch, 4, 4, 1, 1)),
        "its last windows may be smaller (ceil_mode)": call(_aten.avg_pool2d.default, x, [4, 4], [3, 3], [0, 0], True),
        "its divisor differs at the edges (count_include_pad=False)": call(_aten.avg_pool2d.default, x, *padded),
        "6x6 does not divide into 4x3 windows": call(_aten.adaptive_avg_pool2d.default, x, [4, 3]),
        "it does not average over a static height and width": call(_aten.mean.dim, x, [1, 2]),
        "its operand w is constant": call(_aten.relu.default, tensor(2, 2)),
        "it computes in torch.float64": double.call(_aten.relu.default, double.x),
        "its operand x is not a float tensor": integer.call(_aten.add.Tensor, integer.x, converted),
        "its input is one image without a batch dimension": one.call(_aten.max_pool2d.default, one.x, *image),
        "its input's height or width is not static": one.call(_aten.adaptive_avg_pool2d.default, one.x, [1, 1]),
    }


def _scaled(sketch: Sketch, x: fx.Node) -> fx.Node:
    node = sketch.call(_aten.add.Tensor, x, x)
    node.kwargs = {"alpha": 2}
    return node


def test_what_has_no_integer_form_says_why() -> None:
    refused = _refused(*_image())
    assert {reason: recognize(node) for reason, node in refused.items()} == {reason: reason for reason in refused}


def test_more_that_has_no_integer_form() -> None:
    sketch, x = _image()
    linear = Sketch(2, 6)
    assert recognize(linear.call(_aten.linear.default, linear.x, _computed(linear, 3, 6))) == "its weight is computed, not constant"
    bias = sketch.call(_aten.conv2d.default, x, sketch.tensor(4, 4, 1, 1), _computed(sketch, 4))
    assert recognize(bias) == "its weight is computed, not constant"
    moved = sketch.call(_aten.view.default, sketch.tensor(2, 2), [4])
    assert recognize(moved) == "its operand w is constant"
    assert recognize(sketch.call(_aten.mean.dim, x, None)) == "it does not average over a static height and width"


def test_a_symbolic_height_has_no_window() -> None:
    height = torch.export.Dim("height", max=64)
    program = capture(nn.ReLU(), (torch.zeros(2, 4, 6, 6),), dynamic_shapes=({2: height},))
    sketch = Sketch(1)
    sketch.x.meta["val"] = program.placeholders()[0].meta["val"]
    average = sketch.call(_aten.adaptive_avg_pool2d.default, sketch.x, [1, 1])
    assert recognize(average) == "its input's height or width is not static"
    plain, ceil = (sketch.call(_aten.max_pool2d.default, sketch.x, [2, 2], [2, 2], [0, 0], [1, 1], mode) for mode in (False, True))
    assert recognize(plain) == Recognized("maximum", (sketch.x,), window=Window((2, 2), (2, 2)))
    assert recognize(ceil) == "its input's height or width is not static (ceil_mode)"


def test_a_relu_that_alone_reads_is_fused() -> None:
    sketch, x = _image()
    first = sketch.call(_aten.conv2d.default, x, sketch.tensor(4, 4, 1, 1))
    relu = sketch.call(_aten.relu.default, first)
    assert fused_rectifier(first) is relu
    assert fused_rectifier(relu) is None
    sketch.call(_aten.add.Tensor, first, relu)
    assert fused_rectifier(first) is None
