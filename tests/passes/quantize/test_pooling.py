"""Pools are averages or maxima over whole windows, or say why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fxpress_ir import capture
from fxpress_passes.quantize.recognized import Recognized, Window
from hypothesis import assume, given
from hypothesis import strategies as st
from quantized import exactly
from sketch import Sketch, alone
from torch import Tensor, nn
from torch.nn import functional

_aten, _fxp = torch.ops.aten, torch.ops.fxp
AVERAGE, ADAPTIVE, MEAN = _aten.avg_pool2d.default, _aten.adaptive_avg_pool2d.default, _aten.mean.dim


@pytest.mark.parametrize(
    ("target", "args", "window", "divisor", "keeps_rank"),
    [
        (AVERAGE, ([2, 3],), Window((2, 3), (2, 3)), 6, True),
        (AVERAGE, ([2],), Window((2, 2), (2, 2)), 4, True),
        (AVERAGE, ([3], [2, 1], [1, 1]), Window((3, 3), (2, 1), (1, 1, 1, 1)), 9, True),
        (AVERAGE, ([2, 2], [2, 2], [0, 0], False, False), Window((2, 2), (2, 2)), 4, True),
        (AVERAGE, ([2, 2], [1, 1], [0, 0], False, True, 5), Window((2, 2), (1, 1)), 5, True),
        (AVERAGE, ([2, 2], [2, 2], [0, 0], True, False), Window((2, 2), (2, 2)), 4, True),
        (AVERAGE, ([4, 4], [2, 2], [1, 1], True), Window((4, 4), (2, 2), (1, 1, 1, 1)), 16, True),
        (ADAPTIVE, ([1, 1],), Window((6, 6), (6, 6)), 36, True),
        (ADAPTIVE, ([3, 2],), Window((2, 3), (2, 3)), 6, True),
        (MEAN, ([2, 3], True), Window((6, 6), (6, 6)), 36, True),
        (MEAN, ([-1, -2],), Window((6, 6), (6, 6)), 36, False),
    ],
)
def test_averages(target: Any, args: tuple[Any, ...], window: Window, divisor: int, keeps_rank: bool) -> None:
    x, found = alone(target, *args)
    assert found == Recognized("average", (x,), window=window, divisor=divisor, keeps_rank=keeps_rank)


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
    x, found = alone(_aten.max_pool2d.default, *args)
    assert found == Recognized("maximum", (x,), window=window)


@pytest.mark.parametrize(
    ("target", "args", "reason"),
    [
        (AVERAGE, ([4, 4], [3, 3], [0, 0], True), "its last windows may be smaller (ceil_mode)"),
        (AVERAGE, ([3, 3], [2, 2], [1, 1], False, False), "its divisor differs at the edges (count_include_pad=False)"),
        (ADAPTIVE, ([4, 3],), "6x6 does not divide into 4x3 windows"),
        (MEAN, ([1, 2],), "it does not average over a static height and width"),
        (MEAN, (None,), "it does not average over a static height and width"),
        (MEAN, ([3],), "it does not average over a static height and width"),
    ],
)
def test_what_has_no_whole_windows_says_so(target: Any, args: tuple[Any, ...], reason: str) -> None:
    assert alone(target, *args)[1] == reason


def test_one_image_is_no_batch() -> None:
    assert alone(_aten.max_pool2d.default, [2, 2], shape=(4, 6, 6))[1] == "its input is one image without a batch dimension"
    assert alone(ADAPTIVE, [1, 1], shape=(4, 6, 6))[1] == "its input's height or width is not static"


def test_a_symbolic_height_has_windows_where_their_number_does_not_matter() -> None:
    height = torch.export.Dim("height", max=64)
    sketch = Sketch()
    program = capture(nn.ReLU(), (torch.zeros(2, 4, 6, 6),), dynamic_shapes=({2: height},))
    sketch.x.meta["val"] = program.placeholders()[0].meta["val"]
    calls = [sketch.call(ADAPTIVE, sketch.x, [1, 1]), sketch.call(MEAN, sketch.x, [2, 3])]
    calls += [sketch.call(_aten.max_pool2d.default, sketch.x, [2, 2], [2, 2], [0, 0], [1, 1], ceil) for ceil in (False, True)]
    calls += [sketch.call(AVERAGE, sketch.x, [2, 2], [2, 2], [0, 0], ceil) for ceil in (False, True)]
    assert sketch.found(*calls) == [
        "its input's height or width is not static",
        "it does not average over a static height and width",
        Recognized("maximum", (sketch.x,), window=Window((2, 2), (2, 2))),
        "its input's height or width is not static (ceil_mode)",
        Recognized("average", (sketch.x,), window=Window((2, 2), (2, 2)), divisor=4),
        "its last windows may be smaller (ceil_mode)",
    ]


sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))
seeds = st.integers(0, 2**32 - 1)


@given(sizes, st.integers(1, 4), st.integers(1, 5), st.integers(0, 2), st.integers(1, 3), st.booleans(), seeds)
def test_the_window_of_a_maximum_gives_the_integer_operator_the_same_values(
    size: tuple[int, int], kernel: int, stride: int, padding: int, dilation: int, ceil: bool, seed: int
) -> None:
    padding = min(padding, kernel // 2)
    assume(min(size) + 2 * padding >= dilation * (kernel - 1) + 1)
    x = torch.randint(-128, 128, (2, 3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    expected = functional.max_pool2d(x.float(), kernel, stride, padding, dilation, ceil)
    assume(bool(expected.isfinite().all()))  # a window of padding alone has no maximum
    args = [kernel] * 2, [stride] * 2, [padding] * 2, [dilation] * 2, ceil
    _, what = alone(_aten.max_pool2d.default, *args, shape=tuple(x.shape))
    assert isinstance(what, Recognized)
    assert what.window is not None
    window = what.window
    found = _fxp.max_pool2d(x, [*window.kernel], [*window.stride], [*window.padding], [*window.dilation])
    assert torch.equal(found.float(), expected)


@given(sizes, st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.booleans(), seeds)
def test_the_window_of_an_average_gives_the_integer_operator_the_same_sums(
    size: tuple[int, int], kernel: int, stride: int, padding: int, ceil: bool, seed: int
) -> None:
    padding = min(padding, kernel // 2)
    assume(min(size) + 2 * padding >= kernel)
    x = torch.randint(-128, 128, (2, 3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    _, what = alone(AVERAGE, [kernel] * 2, [stride] * 2, [padding] * 2, ceil, shape=tuple(x.shape))
    if isinstance(what, str):
        assert ceil
        return
    assert what.window is not None
    sums = _fxp.sum_pool2d(x, [*what.window.kernel], [*what.window.stride], [*what.window.padding])
    expected = functional.avg_pool2d(x.double(), kernel, stride, padding, ceil)
    assert torch.equal(sums, (expected * what.divisor).round().to(torch.int32))


LAYERS: dict[str, Callable[[], nn.Module | Callable[[Tensor], Tensor]]] = {
    "maximum": lambda: nn.MaxPool2d(3, 2, 1),
    "maximum, ceil_mode": lambda: nn.MaxPool2d(3, 2, ceil_mode=True),
    "maximum, dilation": lambda: nn.MaxPool2d(2, 1, dilation=2),
    "average": lambda: nn.AvgPool2d(2),
    "average, ceil_mode of whole windows": lambda: nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False),
    "average, padding": lambda: nn.AvgPool2d(3, 1, 1),
    "average, divisor": lambda: nn.AvgPool2d((2, 3), (1, 2), divisor_override=5),
    "adaptive to one": lambda: nn.AdaptiveAvgPool2d(1),
    "adaptive to windows": lambda: nn.AdaptiveAvgPool2d((3, 2)),
    "mean, keepdim": lambda: lambda x: x.mean((2, 3), keepdim=True),
    "mean": lambda: lambda x: x.mean((-1, -2)),
    "mean, relu6": lambda: lambda x: functional.relu6(3 * x.mean((2, 3)) + x.mean((-1, -2))),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_bit_is_that_of_rational_arithmetic(name: str) -> None:
    exactly(LAYERS[name]())
