"""Layers, moves, pads, concatenations and pairs: the rule of each operator, and its integers bit for bit."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from float_programs import Function, captured, measured
from fxpress_ir import Program, capture
from fxpress_ir.ops import arguments
from fxpress_passes import Context, PlaceQuantizers, ToInteger
from fxpress_passes.quantize.place_quantizers import place
from fxpress_passes.quantize.recognize import recognize
from fxpress_passes.quantize.recognized import Recognized, Window
from fxpress_passes.quantize.structure import PAIRS, STRUCTURE
from hypothesis import assume, given
from hypothesis import strategies as st
from quantized import Stages, exactly, targets
from sketch import IMAGE, Sketch, alone
from torch import Tensor, nn
from torch.nn import functional

_aten, _fxp = torch.ops.aten, torch.ops.fxp
CONV, SAME, UP, LINEAR = _aten.conv2d.default, _aten.conv2d.padding, _aten.conv_transpose2d.input, _aten.linear.default
PAD, ADD, SUB = _aten.pad.default, _aten.add.Tensor, _aten.sub.Tensor


def test_a_convolution_is_a_weighted_sum_over_a_window() -> None:
    sketch = Sketch()
    weight, bias, square = sketch.tensor(8, 2, 3, 1), sketch.tensor(8), sketch.tensor(8, 4, 2, 2)
    plain, full = sketch.call(CONV, sketch.x, square), sketch.call(CONV, sketch.x, weight, bias, [2, 1], [1, 3], [1, 2], 2)
    window = Window((3, 1), (2, 1), (1, 3, 1, 3), (1, 2))
    assert sketch.found(plain, full) == [
        Recognized("weighted", (sketch.x,), weight=square, window=Window((2, 2), (1, 1))),
        Recognized("weighted", (sketch.x,), weight=weight, bias=bias, window=window, groups=2),
    ]


@pytest.mark.parametrize(
    ("padding", "kernel", "dilation", "expected"),
    [
        ("valid", (3, 3), [1, 1], (0, 0, 0, 0)),
        ("same", (3, 1), [1, 1], (1, 0, 1, 0)),
        ("same", (2, 4), [1, 1], (0, 1, 1, 2)),
        ("same", (2, 2), [3, 2], (1, 1, 2, 1)),
    ],
)
def test_the_odd_pixel_of_same_padding_goes_to_the_bottom_and_the_right(
    padding: str, kernel: tuple[int, int], dilation: list[int], expected: tuple[int, ...]
) -> None:
    sketch = Sketch()
    (found,) = sketch.found(sketch.call(SAME, sketch.x, sketch.tensor(4, 4, *kernel), None, [1, 1], padding, dilation))
    assert isinstance(found, Recognized)
    assert found.window == Window(kernel, (1, 1), expected, (dilation[0], dilation[1]))


@pytest.mark.parametrize(
    ("pad", "args", "takes"),
    [
        (PAD, ([1, 2, 3, 4],), True),
        (PAD, ([1, 2, 3, 4], "constant", 0.0), True),
        (_aten.constant_pad_nd.default, ([1, 2, 3, 4], 0), True),
        (PAD, ([1, 2, 3, 4], "constant", 0.5), False),
        (PAD, ([1, 2, 3, 4], "replicate"), False),
        (PAD, ([-1, 2, 3, 4],), False),
    ],
)
def test_zeros_in_front_of_a_convolution_are_its_padding(pad: Any, args: tuple[Any, ...], takes: bool) -> None:
    sketch = Sketch()
    padded = sketch.call(pad, sketch.x, *args)
    (found,) = sketch.found(sketch.call(CONV, padded, sketch.tensor(4, 4, 3, 3), None, [1, 1], [1, 1]))
    assert isinstance(found, Recognized)
    assert found.window is not None
    assert (found.operands, found.window.padding) == (((sketch.x,), (4, 2, 5, 3)) if takes else ((padded,), (1, 1, 1, 1)))


def test_a_linear_is_a_weighted_sum_of_any_rank() -> None:
    for shape in ((6,), (2, 6), (2, 5, 6)):
        sketch = Sketch(*shape)
        weight, bias = sketch.tensor(3, 6), sketch.tensor(3)
        assert sketch.found(sketch.call(LINEAR, sketch.x, weight, bias)) == [Recognized("weighted", (sketch.x,), weight=weight, bias=bias)]


def test_a_transposed_convolution_is_one_over_spread_pixels() -> None:
    sketch = Sketch()
    weight = sketch.tensor(4, 3, 3, 2)
    node = sketch.call(UP, sketch.x, weight, None, [2, 3], [1, 0], [1, 2], 2, [1, 2])
    window = Window((3, 2), (1, 1), (1, 2, 1, 2), (1, 2))
    expected = Recognized("weighted", (sketch.x,), weight=weight, channel_axis=1, window=window, groups=2, spread=(2, 3))
    assert sketch.found(node) == [expected]


def test_a_weight_may_stand_behind_a_fake_quantizer() -> None:
    sketch = Sketch()
    quantized = sketch.call(_fxp.fake_quantize_channels.default, sketch.tensor(8, 4, 1, 1), sketch.tensor(8), 0, -127, 127)
    (found,) = sketch.found(sketch.call(CONV, sketch.x, quantized))
    assert isinstance(found, Recognized)
    assert found.weight is quantized


@pytest.mark.parametrize(
    ("target", "args"),
    [
        (_aten.flatten.using_ints, (1,)),
        (_aten.view.default, ([2, -1],)),
        (_aten.permute.default, ([0, 2, 3, 1],)),
        (_aten.transpose.int, (1, 2)),
        (_aten.unsqueeze.default, (0,)),
        (_aten.expand.default, ([-1, -1, -1, -1],)),
        (_aten.slice.Tensor, (1, 0, 2)),
        (_aten.contiguous.default, ()),
    ],
)
def test_shape_operators_are_moves(target: Any, args: tuple[Any, ...]) -> None:
    x, found = alone(target, *args)
    assert found == Recognized("move", (x,))


@pytest.mark.parametrize(
    ("target", "args", "parts"),
    [
        (_aten.chunk.default, (2, 1), [(1, 0, 2), (1, 2, 4)]),
        (_aten.chunk.default, (4, -1), [(3, 0, 2), (3, 2, 4), (3, 4, 6)]),
        (_aten.split.Tensor, (4, 2), [(2, 0, 4), (2, 4, 6)]),
        (_aten.split_with_sizes.default, ([1, 3], 1), [(1, 0, 1), (1, 1, 4)]),
    ],
)
def test_pieces_of_a_split_are_moves(target: Any, args: tuple[Any, ...], parts: list[tuple[int, int, int]]) -> None:
    sketch = Sketch()
    whole = sketch.graph.call_function(target, (sketch.x, *args))
    whole.meta["val"] = target(sketch.x.meta["val"], *args)
    pieces = [sketch.call(operator.getitem, whole, index) for index in range(len(parts))]
    recognition = sketch.recognition(*pieces)
    assert recognition.found[whole] == Recognized("split", (sketch.x,))
    assert [recognition.found[piece] for piece in pieces] == [Recognized("move", (whole,), part=part) for part in parts]


def test_one_position_is_a_slice_without_its_dimension() -> None:
    for dim, index, part in ((1, 2, (1, 2, 3)), (-1, -1, (3, 5, 6))):
        x, found = alone(_aten.select.int, dim, index)
        assert found == Recognized("move", (x,), part=part, squeezes=True)


def test_the_pieces_and_the_whole_of_a_split_along_the_batch_stay_together() -> None:
    def body(x: Tensor) -> Tensor:
        first, second = functional.relu(x).chunk(2)
        return first + second

    batch = 2 * torch.export.Dim("half")
    program = capture(Function(body), (torch.zeros(4, 3),), dynamic_shapes={"x": {0: batch}})
    reasons = {node.name: what for node, what in recognize(program.graph).found.items() if isinstance(what, str)}
    (split,) = [node for node in program.graph.nodes if node.target in (_aten.chunk.default, _aten.split.Tensor)]
    assert reasons == {split.name: "its sizes are symbolic", "getitem": "its size is symbolic", "getitem_1": "its size is symbolic"}


def test_a_concatenation_has_an_axis() -> None:
    sketch = Sketch()
    assert sketch.found(sketch.call(_aten.cat.default, [sketch.x, sketch.x], -1)) == [Recognized("concat", (sketch.x, sketch.x), axis=3)]


@pytest.mark.parametrize(
    ("target", "args", "padding", "fill"),
    [
        (PAD, ([1, 2],), (0, 1, 0, 2), 0.0),
        (PAD, ([1, 2, 0, 3], "constant", -1.5), (0, 1, 3, 2), -1.5),
        (_aten.constant_pad_nd.default, ([1, 1, 1, 1], 7), (1, 1, 1, 1), 7.0),
        (PAD, ([1, 1, 1, 1, 0, 0, 0, 0],), (1, 1, 1, 1), 0.0),
    ],
)
def test_constant_pads(target: Any, args: tuple[Any, ...], padding: tuple[int, ...], fill: float) -> None:
    x, found = alone(target, *args)
    assert found == Recognized("pad", (x,), padding=padding, fill=fill)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("target", "args", "rows", "columns"),
    [
        (PAD, ([2, 1, 1, 0], "replicate"), (0, 0, 1, 2), (0, 0, 0, 1, 1)),
        (PAD, ([1, 1, 2, 1], "reflect"), (2, 1, 0, 1, 2, 1), (1, 0, 1, 0)),
        (_aten.replication_pad2d.default, ([0, 1, 0, 2],), (0, 1, 2, 2, 2), (0, 1, 1)),
        (_aten.reflection_pad2d.default, ([0, 1, 0, 2],), (0, 1, 2, 1, 0), (0, 1, 0)),
        (PAD, ([-1, 0, 0, 1], "replicate"), (0, 1, 2, 2), (1,)),
    ],
)
def test_other_pads_select_rows_and_columns(target: Any, args: tuple[Any, ...], rows: Any, columns: Any) -> None:
    x, found = alone(target, *args, shape=(2, 4, 3, 2))
    assert found == Recognized("select", (x,), rows=rows, columns=columns)


pads = st.integers(-2, 4)


@given(st.tuples(pads, pads, pads, pads), st.sampled_from(["reflect", "replicate"]), st.tuples(st.integers(1, 6), st.integers(1, 6)))
def test_selected_rows_and_columns_are_torchs_pads(widths: tuple[int, int, int, int], mode: str, size: tuple[int, int]) -> None:
    left, right, top, bottom = widths
    assume(size[0] + top + bottom > 0 and size[1] + left + right > 0)
    assume(mode == "replicate" or (max(top, bottom) < size[0] and max(left, right) < size[1]))
    x = torch.arange(2 * 3 * size[0] * size[1], dtype=torch.float32).reshape(2, 3, *size)
    _, found = alone(PAD, [*widths], mode, shape=tuple(x.shape))
    assert isinstance(found, Recognized)
    assert torch.equal(_fxp.select2d(x, [*found.rows], [*found.columns]), functional.pad(x, widths, mode))


def test_adds_and_products_of_two_values() -> None:
    sketch = Sketch()
    x, y = sketch.x, sketch.call(_aten.transpose.int, sketch.x, 2, 3)
    pairs = [sketch.call(target, x, y) for target in (ADD, SUB, _aten.mul.Tensor)]
    pairs += [sketch.call(target, x, y, alpha=-1) for target in (ADD, SUB)]
    wide = sketch.call(ADD, x, sketch.call(_aten.mean.dim, x, [2, 3], True))
    adds = [Recognized("add", (x, y), sign=sign) for sign in (1, -1, -1, 1)]
    found = sketch.found(*pairs, wide)
    assert found[:2] + found[3:5] == adds
    assert found[2] == Recognized("product", (x, y))
    assert found[5] == Recognized("add", tuple(wide.all_input_nodes))


REFUSED: dict[str, Callable[[Sketch], Any]] = {
    "its weight is computed, not constant": lambda s: s.call(CONV, s.x, s.call(_aten.neg.default, s.tensor(4, 4, 1, 1))),
    "its padding cuts into the spread input": lambda s: s.call(UP, s.x, s.tensor(4, 4, 2, 2), None, [1, 1], [2, 2]),
    "it takes one of several results": lambda s: s.call(operator.getitem, _sorted(s), 0),
    "it pads other dimensions than a static height and width": lambda s: s.call(PAD, s.x, [0, 0, 0, 0, 1, 0]),
    "it crops": lambda s: s.call(PAD, s.x, [1, -1]),
    "it pads by circular": lambda s: s.call(PAD, s.x, [1, 1, 1, 1], "circular"),
    "it scales its second operand by 2": lambda s: s.call(ADD, s.x, s.call(_aten.transpose.int, s.x, 2, 3), alpha=2),
    "its operand w is constant": lambda s: s.call(_aten.max_pool2d.default, s.tensor(*IMAGE), [2, 2]),
}


def _sorted(sketch: Sketch) -> Any:
    node = sketch.graph.call_function(_aten.sort.default, (sketch.x,))
    node.meta["val"] = tuple(torch.zeros(IMAGE).sort())
    return node


@pytest.mark.parametrize("reason", REFUSED)
def test_what_has_no_integer_form_says_why(reason: str) -> None:
    sketch = Sketch()
    assert sketch.found(REFUSED[reason](sketch)) == [reason]


def test_more_computed_weights() -> None:
    sketch, linear = Sketch(), Sketch(2, 6)
    bias = sketch.call(CONV, sketch.x, sketch.tensor(4, 4, 1, 1), sketch.call(_aten.neg.default, sketch.tensor(4)))
    up = sketch.call(UP, sketch.x, sketch.call(_aten.neg.default, sketch.tensor(4, 4, 1, 1)))
    assert sketch.found(bias, up) == ["its weight is computed, not constant"] * 2
    computed = linear.call(_aten.neg.default, linear.tensor(3, 6))
    assert linear.found(linear.call(LINEAR, linear.x, computed)) == ["its weight is computed, not constant"]


def test_no_operator_has_two_rules() -> None:
    assert not STRUCTURE.keys() & PAIRS.keys()


class Gated(nn.Module):
    """Two layers of the same input, whose ranges differ by a factor of 40, put together by `body`."""

    def __init__(self, body: Callable[[Tensor, Tensor], Tensor], *, pooled: bool = False) -> None:
        super().__init__()
        self.large, self.small, self.body = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), body
        self.pool = nn.AdaptiveAvgPool2d(1) if pooled else nn.Identity()
        with torch.no_grad():
            self.large.weight.mul_(40)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.large(x), self.pool(self.small(x)))


def _shuffle(x: Tensor) -> Tensor:
    n, channels, height, width = x.shape
    return x.view(n, 2, channels // 2, height, width).transpose(1, 2).reshape(n, channels, height, width)


def _split(x: Tensor) -> Tensor:
    first, second = functional.relu(x).split([1, 3], 1)
    return torch.cat([second, first], 1)


LAYERS: dict[str, tuple[Callable[[], nn.Module | Callable[[Tensor], Tensor]], list[str]]] = {
    "same padding, even kernel": (lambda: nn.Conv2d(4, 6, (2, 4), padding="same"), ["conv2d", "requantize"]),
    "same padding, dilation": (lambda: nn.Conv2d(4, 6, 2, padding="same", dilation=(3, 1)), ["conv2d", "requantize"]),
    "zeros in front": (lambda: nn.Sequential(nn.ZeroPad2d((2, 0, 1, 3)), nn.Conv2d(4, 6, 3, padding=1)), ["conv2d", "requantize"]),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 2, 2), ["insert_zeros", "conv2d", "requantize"]),
    "transposed, all options": (
        lambda: nn.ConvTranspose2d(4, 6, (3, 4), (2, 3), (1, 2), (1, 2), groups=2, dilation=(2, 1)),
        ["insert_zeros", "conv2d", "requantize"],
    ),
    "transposed, depthwise": (
        lambda: nn.ConvTranspose2d(4, 4, 3, 2, 1, 1, groups=4, bias=False),
        ["insert_zeros", "conv2d", "requantize"],
    ),
    "transposed, one step": (lambda: nn.ConvTranspose2d(4, 2, 3, padding=1, dilation=2), ["conv2d", "requantize"]),
    "linear of three dimensions": (lambda: nn.Linear(6, 5), ["linear", "requantize"]),
    "pad by a number": (lambda: lambda x: functional.pad(x, (1, 2, 0, 1), value=-0.75), ["pad2d"]),
    "pad by a large number": (lambda: lambda x: functional.pad(x, (1, 2, 0, 1), value=9.0), ["pad2d"]),
    "pad a maximum by a large number": (
        lambda: lambda x: functional.pad(functional.max_pool2d(x, 2).relu() + x[:, :, ::2, ::2], (1, 0), value=-9.0),
        ["max_pool2d", "lut", "slice", "slice", "add", "pad2d"],
    ),
    "pad by reflection": (lambda: lambda x: functional.pad(x, (3, 1, 2, 4), mode="reflect"), ["select2d"]),
    "pad by replication": (lambda: lambda x: functional.pad(x, (3, 1, 2, 4), mode="replicate"), ["select2d"]),
    "slices": (lambda: lambda x: x[:, 1:3, ::2, -3:], ["slice", "slice", "slice"]),
    "one channel": (lambda: lambda x: x[:, -2], ["slice", "squeeze"]),
    "chunks": (lambda: lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), ["slice", "slice", "concat"]),
    "pieces": (lambda: _split, ["lut", "slice", "slice", "concat"]),
    "channel shuffle": (lambda: _shuffle, ["view", "transpose", "reshape"]),
    "add of two scales": (lambda: Gated(lambda a, b: a + b), ["conv2d", "requantize", "conv2d", "requantize", "add"]),
    "sub": (lambda: Gated(lambda a, b: b - a), ["conv2d", "requantize", "conv2d", "requantize", "add"]),
    "sub, relu6": (lambda: Gated(lambda a, b: functional.relu6(a - b)), ["conv2d", "requantize", "conv2d", "requantize", "add"]),
    "product": (lambda: Gated(lambda a, b: a * b), ["conv2d", "requantize", "conv2d", "requantize", "multiply", "requantize"]),
    "concat of scales that are shared": (
        lambda: Gated(lambda a, b: torch.cat([a, b], 1)),
        ["conv2d", "requantize", "conv2d", "requantize", "concat"],
    ),
    "concat of scales that differ": (
        lambda: Gated(lambda a, b: torch.cat([a + b, b, functional.avg_pool2d(b, 3, 1, 1)], 1)),
        ["conv2d", "requantize", "conv2d", "requantize", "add", "sum_pool2d", "requantize", "requantize", "concat"],
    ),
    "concat of signs that differ": (
        lambda: Gated(lambda a, b: torch.cat([functional.relu(a + b), b], 1)),
        ["conv2d", "requantize", "conv2d", "requantize", "add", "requantize", "concat"],
    ),
    "concat along the height": (lambda: lambda x: torch.cat([x.transpose(2, 3), functional.relu(x)], 2), ["transpose", "lut", "concat"]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_bit_is_that_of_rational_arithmetic(name: str) -> None:
    make, operators = LAYERS[name]
    assert targets(exactly(make()).integer) == operators


def test_one_of_two_factors_may_be_broadcast() -> None:
    layers = ["conv2d", "requantize", "conv2d", "requantize", "sum_pool2d", "requantize"]
    for body, last in ((lambda a, b: a * torch.sigmoid(b), ["lut", "multiply", "requantize"]), (lambda a, b: b + a, ["add"])):
        assert targets(exactly(Gated(body, pooled=True)).integer) == [*layers, *last]


def _node(stages: Stages, target: Any) -> dict[str, Any]:
    (node,) = stages.integer.graph.find_nodes(op="call_function", target=target)
    return arguments(node)


def test_a_pad_of_zeros_is_absorbed_and_any_other_is_not() -> None:
    conv = nn.Conv2d(4, 6, 3)
    assert _node(exactly(nn.Sequential(nn.ZeroPad2d((2, 0, 1, 3)), conv)), _fxp.conv2d.default)["padding"] == [1, 2, 3, 0]
    assert targets(exactly(nn.Sequential(nn.ConstantPad2d(1, 0.5), conv)).integer) == ["pad2d", "conv2d", "requantize"]


def test_a_large_number_around_a_value_is_in_its_range() -> None:
    """Data reach 4 or so; without the pad's 9 in the range it would be clamped to that."""
    stages = exactly(lambda x: functional.pad(x, (1, 2, 0, 1), value=9.0))
    assert _node(stages, _fxp.pad2d.default)["value"] == 127
    (result,) = stages.integer.run(torch.zeros(1, 4, 6, 6))
    assert float(result.max()) == pytest.approx(9.0, rel=1e-6)


def test_infinity_around_a_value_is_the_end_of_its_grid() -> None:
    def framed(value: float) -> Program:
        return captured(lambda x: functional.max_pool2d(functional.pad(x, (1, 1, 1, 1), value=value), 2), 1, 4, 6, 6)

    plan = PlaceQuantizers().decide(finite := framed(-1.0), measured(finite))
    simulated = place(framed(float("-inf")), plan)
    integer = ToInteger().apply(simulated, Context())
    (node,) = integer.graph.find_nodes(op="call_function", target=_fxp.pad2d.default)
    assert arguments(node)["value"] == -128
    x = torch.randn(3, 4, 6, 6)
    assert torch.equal(integer.run(x)[0], simulated.run(x)[0])
