"""Pools are averages or maxima over windows, averages by regions where they differ, or say why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from float_programs import Chain
from fxpress_ir import capture
from fxpress_passes.quantize.recognize import recognize
from fxpress_passes.quantize.recognized import Recognized, Region, Window
from hypothesis import assume, given, settings
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
        (AVERAGE, ([3, 3], [2, 2], [1, 1], False, False, 7), Window((3, 3), (2, 2), (1, 1, 1, 1)), 7, True),
        (AVERAGE, ([4, 4], [3, 3], [1, 2], True, False, 7), Window((4, 4), (3, 3), (1, 2, 3, 2)), 7, True),
        (AVERAGE, ([6, 4], [6, 7], [0, 2], False, False), Window((6, 2), (6, 6)), 12, True),
        (ADAPTIVE, ([1, 1],), Window((6, 6), (6, 6)), 36, True),
        (ADAPTIVE, ([3, 2],), Window((2, 3), (2, 3)), 6, True),
        (ADAPTIVE, ([5, 3],), Window((2, 2), (1, 2)), 4, True),
        (MEAN, ([2, 3], True), Window((6, 6), (6, 6)), 36, True),
        (MEAN, ([-1, -2],), Window((6, 6), (6, 6)), 36, False),
    ],
)
def test_averages(target: Any, args: tuple[Any, ...], window: Window, divisor: int, keeps_rank: bool) -> None:
    x, found = alone(target, *args)
    assert found == Recognized("average", (x,), window=window, divisor=divisor, keeps_rank=keeps_rank)


ROWS = COLUMNS = (0, 6)


@pytest.mark.parametrize(
    ("target", "args", "divisor", "regions"),
    [
        (
            AVERAGE,
            ([6, 3], [1, 1], [0, 1], False, False),
            18,
            [
                [
                    Region(ROWS, (0, 2), Window((6, 2), (6, 6)), 12),
                    Region(ROWS, (0, 6), Window((6, 3), (6, 1)), 18),
                    Region(ROWS, (4, 6), Window((6, 2), (6, 6)), 12),
                ]
            ],
        ),
        (
            AVERAGE,
            ([3, 6], [2, 6], [1, 0], False, False),
            18,
            [[Region((0, 2), COLUMNS, Window((2, 6), (6, 6)), 12)], [Region((1, 6), COLUMNS, Window((3, 6), (2, 6)), 18)]],
        ),
        (
            AVERAGE,
            ([6, 4], [6, 3], [0, 0], True),
            24,
            [[Region(ROWS, (0, 4), Window((6, 4), (6, 6)), 24), Region(ROWS, (3, 6), Window((6, 3), (6, 6)), 18)]],
        ),
        (
            ADAPTIVE,
            ([1, 4],),
            12,
            [[Region(ROWS, (0, 3), Window((6, 2), (6, 1)), 12), Region(ROWS, (3, 6), Window((6, 2), (6, 1)), 12)]],
        ),
    ],
)
def test_averages_whose_windows_differ(target: Any, args: tuple[Any, ...], divisor: int, regions: list[list[Region]]) -> None:
    x, found = alone(target, *args)
    largest = max((region.window for row in regions for region in row), key=lambda window: window.kernel)
    assert found == Recognized("average", (x,), window=largest, divisor=divisor, regions=tuple(map(tuple, regions)))


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
        (AVERAGE, ([2, 2], [1, 1], [0, 0], False, True, -4), "its divisor -4 is negative"),
        (ADAPTIVE, ([11, 11],), "its windows fall into 121 regions of equal ones, more than 64"),
        (ADAPTIVE, ([0, 3],), "its output is empty"),
        (MEAN, ([1, 2],), "it does not average over a static height and width"),
        (MEAN, (None,), "it does not average over a static height and width"),
        (MEAN, ([3],), "it does not average over a static height and width"),
    ],
)
def test_what_has_no_integer_windows_says_so(target: Any, args: tuple[Any, ...], reason: str) -> None:
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
    calls += [sketch.call(AVERAGE, sketch.x, [2, 2], [2, 2], [1, 1], False, False, divisor) for divisor in (None, 3)]
    assert sketch.found(*calls) == [
        "its input's height or width is not static",
        "it does not average over a static height and width",
        Recognized("maximum", (sketch.x,), window=Window((2, 2), (2, 2))),
        "its input's height or width is not static (ceil_mode)",
        Recognized("average", (sketch.x,), window=Window((2, 2), (2, 2)), divisor=4),
        "its input's height or width is not static (ceil_mode)",
        "its input's height or width is not static (count_include_pad=False)",
        Recognized("average", (sketch.x,), window=Window((2, 2), (2, 2), (1, 1, 1, 1)), divisor=3),
    ]


class _Resized(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(x, (y.shape[0], 3))


def test_a_symbolic_number_of_adaptive_windows_has_no_regions() -> None:
    shapes = ({}, {0: torch.export.Dim("count", max=64)})
    program = capture(_Resized(), (torch.zeros(2, 4, 6, 6), torch.zeros(5)), dynamic_shapes=shapes)
    (found,) = recognize(program.graph).found.values()
    assert found == "its output's height or width is not static"


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


def _averages(x: Tensor, what: Recognized, unit: int = 1) -> Tensor:
    """A recognised average of integers times a unit: the integer operator's sums, each over its divisor, in float64."""

    def part(image: Tensor, window: Window, divisor: int) -> Tensor:
        sums: Tensor = _fxp.sum_pool2d(image, [*window.kernel], [*window.stride], [*window.padding])
        return sums.double() * unit / divisor

    if what.regions:
        rows = [[part(x[:, :, slice(*r.rows), slice(*r.columns)], r.window, r.divisor) for r in row] for row in what.regions]
        return torch.cat([torch.cat(row, 3) for row in rows], 2)
    assert what.window is not None
    return part(x, what.window, what.divisor)


windows = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(0, 2))


@settings(max_examples=80, derandomize=True, deadline=None)
@given(sizes, windows, windows, st.booleans(), st.booleans(), st.none() | st.integers(1, 9), seeds)
def test_the_regions_of_an_average_have_torchs_averages(
    size: tuple[int, int],
    down: tuple[int, int, int],
    across: tuple[int, int, int],
    ceil: bool,
    counts_padding: bool,
    divisor: int | None,
    seed: int,
) -> None:
    kernel, stride = [down[0], across[0]], [down[1], across[1]]
    padding = [min(down[2], kernel[0] // 2), min(across[2], kernel[1] // 2)]
    assume(all(size[d] + 2 * padding[d] >= kernel[d] for d in (0, 1)))
    x = torch.randint(-128, 128, (2, 3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    args = (kernel, stride, padding, ceil, counts_padding, divisor)
    _, what = alone(AVERAGE, *args, shape=tuple(x.shape))
    assert isinstance(what, Recognized)
    assert torch.equal(_averages(x, what), functional.avg_pool2d(x.double(), *args))


@settings(max_examples=80, derandomize=True, deadline=None)
@given(sizes, sizes, seeds)
def test_the_regions_of_an_adaptive_average_have_torchs_averages(size: tuple[int, int], out: tuple[int, int], seed: int) -> None:
    x = torch.randint(-128, 128, (2, 3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    _, what = alone(ADAPTIVE, [*out], shape=tuple(x.shape))
    if isinstance(what, str):
        assert what.endswith("regions of equal ones, more than 64")
        return
    unit = 2520**2  # torch divides by the height, then by the width: a multiple of both divides without rounding
    assert torch.equal(_averages(x, what, unit), functional.adaptive_avg_pool2d(x.double() * unit, out))


LAYERS: dict[str, Callable[[], nn.Module | Callable[[Tensor], Tensor]]] = {
    "maximum": lambda: nn.MaxPool2d(3, 2, 1),
    "maximum, ceil_mode": lambda: nn.MaxPool2d(3, 2, ceil_mode=True),
    "maximum, dilation": lambda: nn.MaxPool2d(2, 1, dilation=2),
    "average": lambda: nn.AvgPool2d(2),
    "average, ceil_mode of whole windows": lambda: nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False),
    "average, padding": lambda: nn.AvgPool2d(3, 1, 1),
    "average of the image's pixels": lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "average, ceil_mode": lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "average of the image's pixels, ceil_mode, relu": lambda: Chain(nn.AvgPool2d(4, 3, 1, True, False), nn.ReLU()),
    "average, ceil_mode, divisor": lambda: nn.AvgPool2d(4, 3, 1, True, False, 7),
    "average, divisor": lambda: nn.AvgPool2d((2, 3), (1, 2), divisor_override=5),
    "adaptive to one": lambda: nn.AdaptiveAvgPool2d(1),
    "adaptive to windows": lambda: nn.AdaptiveAvgPool2d((3, 2)),
    "adaptive to overlapping windows": lambda: nn.AdaptiveAvgPool2d((4, 5)),
    "adaptive to more than there are": lambda: nn.AdaptiveAvgPool2d((8, 7)),
    "mean, keepdim": lambda: lambda x: x.mean((2, 3), keepdim=True),
    "mean": lambda: lambda x: x.mean((-1, -2)),
    "mean, relu6": lambda: lambda x: functional.relu6(3 * x.mean((2, 3)) + x.mean((-1, -2))),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_bit_is_that_of_rational_arithmetic(name: str) -> None:
    exactly(LAYERS[name]())
