"""fxp::conv2d and fxp::linear, held to sums of Python integers."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from fxpress_ir import Edit, Program
from fxpress_ir.analysis.ranges import integer_ranges
from fxpress_ir.errors import ProgramError
from hypothesis import given, settings
from hypothesis import strategies as st
from support import built, fxp
from torch import Tensor, fx
from torch._subclasses import FakeTensorMode


def convolved(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> np.ndarray:
    """The definition: one int64 sum an output element."""
    top, left, bottom, right = padding
    padded = np.pad(x.numpy().astype(np.int64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    w = weight.numpy().astype(np.int64)
    reach = [dilation[d] * (w.shape[2 + d] - 1) + 1 for d in (0, 1)]
    height, width = ((padded.shape[2 + d] - reach[d]) // stride[d] + 1 for d in (0, 1))
    y = np.zeros((x.shape[0], w.shape[0], height, width), np.int64)
    inputs, outputs = w.shape[1], w.shape[0] // groups
    for o, i, j in product(range(w.shape[0]), range(height), range(width)):
        first = o // outputs * inputs
        rows, columns = (slice(at * stride[d], at * stride[d] + reach[d], dilation[d]) for d, at in ((0, i), (1, j)))
        y[:, o, i, j] = (padded[:, first : first + inputs, rows, columns] * w[o]).sum((1, 2, 3))
    return y if bias is None else y + bias.numpy().astype(np.int64)[None, :, None, None]


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor | None, list[int], list[int], list[int], int]:
    """Small shapes with every attribute; values at the ends of their ranges a third of the time."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**30)))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    kernel, dilation, stride = ([draw(st.integers(1, 3)) for _ in range(2)] for _ in range(3))
    padding = [draw(st.integers(0, 3)) for _ in range(4)]
    size = [max(dilation[d] * (kernel[d] - 1) + 1 - padding[d] - padding[2 + d], 1) + draw(st.integers(0, 4)) for d in (0, 1)]

    def values(low: int, high: int, *shape: int) -> Tensor:
        ends = draw(st.sampled_from([None, None, (low, high)]))
        if ends is None:
            return torch.randint(low, high + 1, shape, generator=generator)
        return torch.where(torch.rand(shape, generator=generator) < 0.5, *ends)

    dtype = draw(st.sampled_from([torch.int8, torch.uint8]))
    limits = torch.iinfo(dtype)
    x = values(limits.min, limits.max, draw(st.integers(1, 3)), inputs, *size).to(dtype)
    weight = values(-127, 127, outputs, inputs // groups, *kernel).to(torch.int8)
    bias = values(-(2**30), 2**30, outputs).to(torch.int32) if draw(st.booleans()) else None
    return x, weight, bias, stride, padding, dilation, groups


@given(convolutions())
@settings(max_examples=150, derandomize=True, deadline=None)
def test_conv2d_is_the_exact_sum_and_its_fake_kernel_gives_its_shape(
    case: tuple[Tensor, Tensor, Tensor | None, list[int], list[int], list[int], int],
) -> None:
    acc = fxp.conv2d(*case)
    assert acc.dtype == torch.int32
    assert np.array_equal(acc.numpy(), convolved(*case))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = fxp.conv2d(*[mode.from_tensor(part) if isinstance(part, Tensor) else part for part in case])
    assert (fake.shape, fake.dtype) == (acc.shape, acc.dtype)


@given(st.lists(st.integers(1, 4), max_size=2), st.integers(1, 20), st.integers(1, 6), st.booleans(), st.integers(0, 2**30))
@settings(max_examples=60, derandomize=True, deadline=None)
def test_linear_is_the_exact_sum_and_its_fake_kernel_gives_its_shape(
    lead: list[int], inputs: int, outputs: int, biased: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (*lead, inputs), generator=generator, dtype=torch.uint8)
    weight = torch.randint(-127, 128, (outputs, inputs), generator=generator, dtype=torch.int8)
    bias = torch.randint(-(2**30), 2**30, (outputs,), generator=generator, dtype=torch.int32) if biased else None
    acc = fxp.linear(x, weight, bias)
    exact = x.numpy().astype(np.int64) @ weight.numpy().astype(np.int64).T + (0 if bias is None else bias.numpy())
    assert acc.dtype == torch.int32
    assert np.array_equal(acc.numpy(), exact)
    with FakeTensorMode() as mode:
        fake = fxp.linear(*[None if part is None else mode.from_tensor(part) for part in (x, weight, bias)])
    assert (fake.shape, fake.dtype) == (acc.shape, acc.dtype)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_longest_sum_of_extremes_that_fits_is_exact(sign: int) -> None:
    most = (2**31 - 1) // (255 * 127)  # 66,311: dyadic.md, section 1.5
    x = torch.full((1, most), 255, dtype=torch.uint8)
    weight = torch.full((1, most), 127 * sign, dtype=torch.int8)
    rest = 2**31 - 1 - most * 255 * 127
    assert fxp.linear(x, weight, torch.tensor([rest * sign], dtype=torch.int32)).item() == sign * (2**31 - 1)
    image = x.reshape(1, -1, 1, 1)
    assert fxp.conv2d(image, weight.reshape(1, -1, 1, 1), None, [1, 1], [0] * 4, [1, 1], 1).item() == sign * most * 255 * 127


def _convolution(dtype: torch.dtype, weight: Tensor, bias: Tensor | None, padding: int = 1) -> Program:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        bias_node = None if bias is None else edit.add_tensor("bias", bias)
        return edit.call(fxp.conv2d.default, x, edit.add_tensor("weight", weight), bias_node, [1, 1], [padding] * 4, [1, 1], 1)

    return built((1, weight.shape[1], 4, 4), body, dtype=dtype)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_batch_stays_dynamic(batch: int) -> None:
    weight = torch.randint(-127, 128, (4, 2, 3, 3), generator=torch.Generator().manual_seed(0), dtype=torch.int8)
    program = _convolution(torch.int8, weight, None)
    assert program.shape_of(program.outputs()[0]) == ("batch", 4, 4, 4)
    x = torch.randint(-128, 128, (batch, 2, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.int8)
    assert np.array_equal(program.run(x)[0].numpy(), convolved(x, weight, None, [1, 1], [1] * 4, [1, 1], 1))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_the_proved_interval_of_each_channel_is_reached(dtype: torch.dtype) -> None:
    weight = torch.randint(-127, 128, (5, 2, 3, 3), generator=torch.Generator().manual_seed(2), dtype=torch.int8)
    program = _convolution(dtype, weight, torch.tensor([0, 1000, -1000, 2**30, -(2**30)], dtype=torch.int32))
    node, limits = program.outputs()[0], torch.iinfo(dtype)
    interval = integer_ranges(program.graph, program.tensors).intervals[node]
    for channel in range(5):
        for bound, signs in ((interval.low, weight < 0), (interval.high, weight > 0)):
            x = torch.where(signs[channel], limits.max, limits.min).to(dtype)
            x = torch.nn.functional.pad(x, (0, 1, 0, 1))[None]
            assert int(program.run(x)[0][0, channel, 1, 1]) == int(bound[channel])


def test_the_fact_bounds_partial_sums_in_any_order() -> None:
    weight = torch.tensor([[[[100]], [[-100]]]], dtype=torch.int8)
    program = _convolution(torch.uint8, weight, torch.tensor([-7], dtype=torch.int32))
    (fact,) = integer_ranges(program.graph, program.tensors).facts
    assert (fact.low, fact.high) == (-200 * 255 - 7, 200 * 255 + 7)  # the sum itself stays within [-25507, 25493]


@pytest.mark.parametrize(
    ("weight", "bias", "padding", "reason"),
    [
        (torch.zeros(4, 3, 3, 3), None, 1, "2 input channels, the weight takes 3"),
        (torch.zeros(4, 2, 3, 3), torch.zeros(3), 1, r"the bias is not of shape \[4\]"),
        (torch.zeros(4, 2, 7, 7), None, 1, "a window of 7 does not fit into 4 elements and 2 pads"),
        (torch.zeros(4, 2, 3), None, 1, "ranks 4 and 3"),
    ],
)
def test_operands_that_the_kernel_could_not_take_do_not_propagate(weight: Tensor, bias: Tensor | None, padding: int, reason: str) -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        nodes = [edit.add_tensor("weight", weight.to(torch.int8)), None if bias is None else edit.add_tensor("bias", bias.int())]
        return edit.call(fxp.conv2d.default, x, *nodes, [1, 1], [padding] * 4, [1, 1], 1)

    with pytest.raises(ProgramError, match=reason):
        built((1, 2, 4, 4), body, dtype=torch.int8)
