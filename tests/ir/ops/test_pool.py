"""fxp::max_pool2d and fxp::sum_pool2d, held to loops over windows."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from fxpress_ir import Edit
from fxpress_ir.analysis.ranges import integer_ranges
from fxpress_ir.errors import ProgramError
from hypothesis import given, settings
from hypothesis import strategies as st
from support import built, fxp
from torch import Tensor, fx
from torch._subclasses import FakeTensorMode


def pooled(
    x: Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int], reduce: Callable[[Any], Any]
) -> np.ndarray:
    """The definition: `reduce` over the elements of each window that lie inside the image."""
    values = x.numpy().astype(np.int64)
    reach = [dilation[d] * (kernel[d] - 1) + 1 for d in (0, 1)]
    counts = [(values.shape[2 + d] + padding[d] + padding[2 + d] - reach[d]) // stride[d] + 1 for d in (0, 1)]
    y = np.zeros((*values.shape[:2], *counts), np.int64)
    for i, j in product(*map(range, counts)):
        rows, columns = (
            [
                r
                for r in range(at * stride[d] - padding[d], at * stride[d] - padding[d] + reach[d], dilation[d])
                if 0 <= r < values.shape[2 + d]
            ]
            for d, at in ((0, i), (1, j))
        )
        y[:, :, i, j] = reduce(values[:, :, rows][:, :, :, columns].reshape(*values.shape[:2], -1))
    return y


@st.composite
def windows(draw: st.DrawFn) -> tuple[Tensor, list[int], list[int], list[int], list[int]]:
    """Small images, windows with every attribute, and padding that leaves each window an element."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**30)))
    kernel, stride = ([draw(st.integers(1, 3)) for _ in range(2)] for _ in range(2))
    dilation = [draw(st.integers(1, 2)) for _ in range(2)]
    padding = [draw(st.integers(0, dilation[d % 2] * (kernel[d % 2] - 1))) for d in range(4)]
    size = [draw(st.integers(1, 4)) + dilation[d] * (kernel[d] - 1) for d in (0, 1)]
    dtype = draw(st.sampled_from([torch.int8, torch.uint8]))
    limits = torch.iinfo(dtype)
    high = draw(st.sampled_from([limits.max, limits.min + 3]))  # near the minimum padding would show
    x = torch.randint(limits.min, high + 1, (draw(st.integers(1, 2)), draw(st.integers(1, 3)), *size), generator=generator).to(dtype)
    return x, kernel, stride, padding, dilation


@given(windows())
@settings(max_examples=150, derandomize=True, deadline=None)
def test_max_pool2d_is_the_largest_element_and_padding_never_wins(case: tuple[Tensor, list[int], list[int], list[int], list[int]]) -> None:
    y = fxp.max_pool2d(*case)
    assert y.dtype == case[0].dtype
    assert np.array_equal(y.numpy(), pooled(*case, reduce=lambda window: window.max(-1)))
    with FakeTensorMode() as mode:
        fake = fxp.max_pool2d(mode.from_tensor(case[0]), *case[1:])
    assert (fake.shape, fake.dtype) == (y.shape, y.dtype)


@given(windows())
@settings(max_examples=100, derandomize=True, deadline=None)
def test_sum_pool2d_is_the_sum_of_the_elements(case: tuple[Tensor, list[int], list[int], list[int], list[int]]) -> None:
    x, kernel, stride, padding, _ = case
    y = fxp.sum_pool2d(x, kernel, stride, padding)
    assert y.dtype == torch.int32
    assert np.array_equal(y.numpy(), pooled(x, kernel, stride, padding, [1, 1], reduce=lambda window: window.sum(-1)))
    with FakeTensorMode() as mode:
        fake = fxp.sum_pool2d(mode.from_tensor(x), kernel, stride, padding)
    assert (fake.shape, fake.dtype) == (y.shape, y.dtype)


def test_the_maximum_of_negative_values_is_negative() -> None:
    x = torch.full((1, 1, 2, 2), -128, dtype=torch.int8)
    assert fxp.max_pool2d(x, [3, 3], [1, 1], [1] * 4, [1, 1]).unique().tolist() == [-128]


@pytest.mark.parametrize(("dtype", "value"), [(torch.int8, -128), (torch.uint8, 255)])
def test_a_large_window_sums_exactly(dtype: torch.dtype, value: int) -> None:
    x = torch.full((1, 1, 300, 300), value, dtype=torch.int32).to(dtype)
    assert fxp.sum_pool2d(x, [300, 300], [300, 300], [0] * 4).item() == 90_000 * value


@pytest.mark.parametrize(("dtype", "expected"), [(torch.int8, (-128 * 6, 127 * 6)), (torch.uint8, (0, 255 * 6))])
def test_the_proved_interval_of_a_sum_is_its_window_times_the_ends(dtype: torch.dtype, expected: tuple[int, int]) -> None:
    program = built((1, 2, 4, 4), lambda edit, x: edit.call(fxp.sum_pool2d.default, x, [2, 3], [1, 1], [0] * 4), dtype=dtype)
    ranges = integer_ranges(program.graph, program.tensors)
    interval, (fact,) = ranges.intervals[program.outputs()[0]], ranges.facts
    assert (int(interval.low), int(interval.high)) == (fact.low, fact.high) == expected


@pytest.mark.parametrize("batch", [1, 3])
def test_the_batch_stays_dynamic(batch: int) -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        return edit.call(fxp.max_pool2d.default, x, [2, 2], [2, 2], [0] * 4, [1, 1])

    program = built((1, 2, 4, 4), body, dtype=torch.int8)
    assert program.shape_of(program.outputs()[0]) == ("batch", 2, 2, 2)
    assert program.run(torch.zeros(batch, 2, 4, 4, dtype=torch.int8))[0].shape == (batch, 2, 2, 2)


@pytest.mark.parametrize(("kernel", "padding", "dilation"), [(2, 2, 1), (1, 1, 1), (2, 1, 5)])
def test_a_window_of_padding_alone_has_no_maximum(kernel: int, padding: int, dilation: int) -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        return edit.call(fxp.max_pool2d.default, x, [kernel] * 2, [1, 1], [padding] * 4, [dilation] * 2)

    with pytest.raises(ProgramError, match=r"hide whole windows|steps over"):
        built((1, 2, 4, 4), body, dtype=torch.int8)
