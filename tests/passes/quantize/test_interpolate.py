"""Upsampling by whole factors is rows and columns by index, filtered by integers where it is bilinear: torch's numbers exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fxpress_passes.quantize.recognized import Recognized
from hypothesis import given
from hypothesis import strategies as st
from quantized import edges, exactly, targets, wide
from sketch import alone
from torch import Tensor, nn
from torch.nn import functional

_aten, _fxp = torch.ops.aten, torch.ops.fxp
NEAREST, BILINEAR = _aten.upsample_nearest2d.vec, _aten.upsample_bilinear2d.vec


def test_nearest_takes_each_row_and_column_several_times() -> None:
    x, found = alone(NEAREST, None, [2.0, 3.0], shape=(2, 4, 3, 2))
    assert found == Recognized("select", (x,), rows=(0, 0, 1, 1, 2, 2), columns=(0, 0, 0, 1, 1, 1))


def test_bilinear_by_two_filters_what_is_near() -> None:
    x, found = alone(BILINEAR, None, False, [2.0, 2.0], shape=(2, 4, 2, 3))
    kernel = ((1, 2, 1), (1, 2, 1))
    rows, columns = (0, 0, 0, 1, 1, 1), (0, 0, 0, 1, 1, 2, 2, 2)
    assert found == Recognized("interpolate", (x,), kernel=kernel, divisor=16, rows=rows, columns=columns)


def test_bilinear_by_an_odd_factor_is_a_box() -> None:
    _, found = alone(BILINEAR, [6, 2], False, None, shape=(2, 4, 2, 2))
    assert isinstance(found, Recognized)
    assert (found.kernel, found.divisor) == (((1, 1, 1), (1,)), 3)
    assert (found.rows, found.columns) == ((0, 0, 0, 0, 1, 1, 1, 1), (0, 1))


def _upsampled(x: Tensor, what: Recognized) -> Tensor:
    """A recognised upsampling of integers, in their own arithmetic, times the divisor."""
    places = _fxp.select2d(x, [*what.rows], [*what.columns])
    if what.kind == "select":
        return places.to(torch.int32)
    channels, (rows, columns) = x.shape[1], (torch.tensor(kernel, dtype=torch.int8) for kernel in what.kernel)
    weight = torch.outer(rows, columns).expand(channels, 1, -1, -1).contiguous()
    return _fxp.conv2d(places, weight, None, [1, 1], [0] * 4, [1, 1], channels)  # type: ignore[no-any-return]


@given(st.tuples(st.integers(1, 6), st.integers(1, 6)), st.tuples(st.integers(1, 9), st.integers(1, 9)), st.booleans(), st.booleans())
def test_the_integers_are_torchs_interpolation(size: tuple[int, int], factors: tuple[int, int], bilinear: bool, by_size: bool) -> None:
    x = torch.randint(-128, 128, (2, 3, *size), generator=torch.Generator().manual_seed(size[0]), dtype=torch.int8)
    out = [size[0] * factors[0], size[1] * factors[1]]
    how: tuple[Any, Any] = (out, None) if by_size else (None, [*map(float, factors)])
    args = (how[0], False, how[1]) if bilinear else how
    _, what = alone(BILINEAR if bilinear else NEAREST, *args, shape=tuple(x.shape))
    assert isinstance(what, Recognized)
    expected = functional.interpolate(x.double(), *how, mode="bilinear" if bilinear else "nearest")
    assert torch.allclose(_upsampled(x, what).double(), expected * what.divisor, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("target", "args", "reason"),
    [
        (NEAREST, ([9, 6], None), "it scales 6x6 to 9x6, by no whole factors"),
        (NEAREST, (None, [1.5, 2.0]), "it scales 6x6 to 9x12, by no whole factors"),
        (NEAREST, (None, [2.1, 2.0]), "it scales 6x6 to 12x12, by no whole factors"),
        (BILINEAR, ([3, 3], False, None), "it scales 6x6 to 3x3, by no whole factors"),
        (BILINEAR, ([12, 12], True, None), "it aligns corners, so its weights differ from pixel to pixel"),
    ],
)
def test_other_factors_say_why(target: Any, args: tuple[Any, ...], reason: str) -> None:
    assert alone(target, *args)[1] == reason


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_every_bit_is_that_of_rational_arithmetic_and_near_torchs_interpolation(mode: str, factor: int) -> None:
    upsample = nn.Upsample(scale_factor=factor, mode=mode)
    stages = exactly(upsample, 1, 3, 4, 5)
    wanted = {"nearest": ["select2d"], "bilinear": ["select2d", "conv2d", "requantize"]}
    assert targets(stages.integer) == wanted[mode]
    x = wide(stages.float, 3)
    found, (result,) = edges(stages, x), stages.integer.run(x)
    first, last = found[0], found[-1]
    expected = upsample(first.simulated).clamp(-128 * last.scale, 127 * last.scale)
    most = 0.0 if mode == "nearest" else last.scale / 2
    assert float((result - expected).abs().max()) <= most + 1e-6  # float32 noise


def test_two_axes_may_differ_and_a_clamp_is_the_results_bounds() -> None:
    stages = exactly(lambda x: functional.relu(functional.interpolate(x, scale_factor=(1.0, 4.0), mode="bilinear")), 1, 3, 4, 5)
    assert targets(stages.integer) == ["select2d", "conv2d", "requantize"]
