"""F1 and F2 give the bits of the program in PyTorch: every operator at its extremes, every structure, every batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fxpress_backends.onnx.lower import FLAVOURS
from fxpress_ir import Edit, violations
from fxpress_ir.ops import INTEGER_OPERATORS, LOGIC_OPERATORS, LOOKUP_OPERATORS, SHAPE_OPERATORS
from hypothesis import assume, given
from hypothesis import strategies as st
from onnx_cases import Check, activations, bytes_, exact, extreme, multipliers, requantized, roundings, seeds
from support import aten, built, fxp, moving_net, residual_net
from torch import fx


@pytest.mark.parametrize("flavour", FLAVOURS.values(), ids=lambda flavour: flavour.name)
def test_every_operator_has_an_emitter(flavour: Any) -> None:
    assert flavour.emitters.keys() == INTEGER_OPERATORS.keys() | SHAPE_OPERATORS | LOOKUP_OPERATORS | LOGIC_OPERATORS


@pytest.mark.parametrize("batch", [1, 7])
def test_nets_of_every_operator(batch: int, same_bits: Check) -> None:
    for program, shape in ((residual_net(seed=batch), (3, 8, 8)), (moving_net(seed=batch), (6, 7, 6))):
        same_bits(program, torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch)) * 4)


@exact
@given(st.data(), seeds, activations, roundings(), st.booleans(), st.booleans())
def test_conv2d(same_bits: Check, data: Any, seed: int, dtype: torch.dtype, rounding: Any, biased: bool, per_channel: bool) -> None:
    draw, generator = data.draw, torch.Generator().manual_seed(seed)
    groups, inputs, outputs = draw(
        st.sampled_from([(1, 3, 4), (1, 5, 2), (2, 2, 3), (4, 1, 1), (3, 1, 2), (16, 1, 1), (20, 1, 1), (4, 4, 4)])
    )
    kernel, stride, dilation = (draw(st.tuples(st.integers(1, most), st.integers(1, most))) for most in (3, 2, 2))
    padding = draw(st.lists(st.integers(0, 2), min_size=4, max_size=4))
    weight = extreme(generator, (groups * outputs, inputs, *kernel), torch.int8).clamp(-127, 127)
    bias = torch.randint(-(2**20), 2**20, (groups * outputs,), generator=generator, dtype=torch.int32)
    b = multipliers(draw, groups * outputs if per_channel else 1)

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        bias_node = edit.add_tensor("bias", bias) if biased else None
        acc = edit.call(fxp.conv2d.default, x, edit.add_tensor("weight", weight), bias_node, list(stride), padding, list(dilation), groups)
        return requantized(edit, acc, b, rounding, 1)

    program = built((1, groups * inputs, 6, 7), body, dtype=dtype)
    assume(not violations(program))
    same_bits(program, extreme(generator, (3, groups * inputs, 6, 7), dtype))


@exact
@given(st.data(), seeds, activations, roundings(), st.booleans(), st.integers(2, 4))
def test_linear(same_bits: Check, data: Any, seed: int, dtype: torch.dtype, rounding: Any, biased: bool, rank: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    depth, outputs = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 9))
    weight = extreme(generator, (outputs, depth), torch.int8).clamp(-127, 127)
    bias = torch.randint(-(2**24), 2**24, (outputs,), generator=generator, dtype=torch.int32)
    b, axis = multipliers(data.draw, outputs), data.draw(st.sampled_from([-1, rank - 1]))

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        acc = edit.call(fxp.linear.default, x, edit.add_tensor("weight", weight), edit.add_tensor("bias", bias) if biased else None)
        return requantized(edit, acc, b, rounding, axis)

    shape = (2, 3, 5)[: rank - 1]
    program = built((*shape, depth), body, dtype=dtype)
    assume(not violations(program))
    same_bits(program, extreme(generator, (3, *shape[1:], depth), dtype))


@exact
@given(
    st.data(),
    seeds,
    st.sampled_from((torch.int8, torch.uint8, torch.int16, torch.int32)),
    roundings(),
    st.sampled_from([1, 4]),
    st.integers(-3, 2),
)
def test_requantize(same_bits: Check, data: Any, seed: int, dtype: torch.dtype, rounding: Any, channels: int, axis: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    b = multipliers(data.draw, channels)
    shape = [2, 6, 6]
    if channels > 1:
        assume(axis % 3 != 0)
        shape[axis] = channels
    program = built(shape, lambda edit, x: requantized(edit, x, b, rounding, axis), dtype=dtype)
    assume(not violations(program))
    x = extreme(generator, (50, *shape[1:]), dtype)
    if dtype == torch.int32:  # near the interesting sums as well
        x[::2] = torch.randint(-(2**18), 2**18, x[::2].shape, generator=generator, dtype=torch.int32)
    same_bits(program, x)


@exact
@given(seeds, activations, roundings(), st.integers(1, 32767), st.integers(1, 32767), st.sampled_from([(1, 1), (1, -1), (-1, 1), (-1, -1)]))
def test_add(same_bits: Check, seed: int, dtype: torch.dtype, rounding: Any, bx: int, by: int, signs: tuple[int, int]) -> None:
    """A negative multiplier subtracts."""
    c, qmin, qmax, result = rounding
    bx, by = bx * signs[0], by * signs[1]

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        one = torch.ones(1, dtype=torch.int32)
        other, operand = (torch.uint8, (1, 0, 127)) if dtype != torch.uint8 else (torch.int8, (1, -128, 127))
        y = edit.call(fxp.requantize.default, x, edit.add_tensor("one", one), *operand, 0, other)
        y = edit.call(aten.transpose.int, y, 1, 2)
        return edit.call(fxp.add.default, x, y, bx, by, c, qmin, qmax, result)

    program = built((2, 5, 5), body, dtype=dtype)
    assume(not violations(program))
    same_bits(program, extreme(torch.Generator().manual_seed(seed), (40, 5, 5), dtype))


@pytest.mark.parametrize("by", [9877, -9877])
@pytest.mark.parametrize("swapped", [False, True])
def test_operands_of_an_add_broadcast(same_bits: Check, by: int, swapped: bool) -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        row = edit.call(aten.slice.Tensor, x, 2, 1, 2)
        return edit.call(fxp.add.default, *((row, x) if swapped else (x, row)), 15001, by, 14, -128, 127, torch.int8)

    same_bits(built((1, 3, 4, 5), body, dtype=torch.int8), extreme(torch.Generator().manual_seed(8), (3, 3, 4, 5), torch.int8))


@exact
@given(
    seeds,
    activations,
    st.sampled_from([(2, 2), (3, 3), (3, 2), (1, 3)]),
    st.sampled_from([(1, 1), (2, 2), (2, 1)]),
    st.integers(1, 2),
    st.data(),
)
def test_max_pool2d(same_bits: Check, seed: int, dtype: torch.dtype, kernel: Any, stride: Any, dilation: int, data: Any) -> None:
    padding = [data.draw(st.integers(0, kernel[side % 2] - 1)) for side in range(4)]
    arguments = (list(kernel), list(stride), padding, [dilation, dilation])
    program = built((1, 3, 7, 8), lambda edit, x: edit.call(fxp.max_pool2d.default, x, *arguments), dtype=dtype)
    same_bits(program, extreme(torch.Generator().manual_seed(seed), (2, 3, 7, 8), dtype))


@exact
@given(seeds, activations, roundings(), st.sampled_from([(2, 2), (3, 2), (6, 7), (1, 1)]), st.booleans(), st.data())
def test_sum_pool2d(same_bits: Check, seed: int, dtype: torch.dtype, rounding: Any, kernel: Any, padded: bool, data: Any) -> None:
    b, padding = multipliers(data.draw, 1), [1, 0, 2, 1] if padded else [0] * 4

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        return requantized(edit, edit.call(fxp.sum_pool2d.default, x, list(kernel), list(kernel), padding), b, rounding, 1)

    program = built((1, 3, 6, 7), body, dtype=dtype)
    assume(not violations(program))
    same_bits(program, extreme(torch.Generator().manual_seed(seed), (3, 3, 6, 7), dtype))


@exact
@given(seeds, bytes_, bytes_, st.sampled_from([(3, 1, 1), (3, 4, 5), (1, 4, 1), (5,), ()]), roundings(), st.booleans(), st.data())
def test_multiply(
    same_bits: Check, seed: int, dtype: torch.dtype, other: torch.dtype, shape: tuple[int, ...], rounding: Any, per_channel: bool, data: Any
) -> None:
    """Of two types, the second operand broadcast from a part of the first."""
    b = multipliers(data.draw, 3 if per_channel else 1)

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        part = x
        for axis, size in enumerate((1,) * (3 - len(shape)) + shape, 1):
            part = edit.call(aten.slice.Tensor, part, axis, 0, size)
        table = torch.arange(-128, 128).to(torch.int8) if other == torch.int8 else torch.arange(256).flip(0).to(torch.uint8)
        y = edit.call(fxp.lut.default, part, edit.add_tensor("table", table[None]), 1)
        return requantized(edit, edit.call(fxp.multiply.default, x, y), b, rounding, 1)

    program = built((1, 3, 4, 5), body, dtype=dtype)
    assume(not violations(program))
    same_bits(program, extreme(torch.Generator().manual_seed(seed), (30, 3, 4, 5), dtype))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
@pytest.mark.parametrize("b", [1, 2, 255, 256, 257, 20001, 32767])
def test_every_product_of_two_bytes(same_bits: Check, dtype: torch.dtype, b: int) -> None:
    values = torch.arange(256).to(dtype)
    pairs = torch.stack([values.repeat_interleave(256), values.repeat(256)], 1).reshape(256, 256, 2)

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        first, second = (edit.call(aten.slice.Tensor, x, 2, place, place + 1) for place in (0, 1))
        acc = edit.call(fxp.multiply.default, first, second)
        return requantized(edit, acc, torch.tensor([b], dtype=torch.int32), (16, torch.iinfo(dtype).min, torch.iinfo(dtype).max, dtype), 1)

    same_bits(built((1, 256, 2), body, dtype=dtype), pairs)


def test_a_product_with_two_readers(same_bits: Check) -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        acc, b = edit.call(fxp.multiply.default, x, x), torch.tensor([300], dtype=torch.int32)
        first, second = requantized(edit, acc, b, (15, -128, 127, torch.int8), 1), requantized(edit, acc, b, (14, 0, 255, torch.uint8), 1)
        return edit.call(fxp.add.default, first, second, 3, -5, 3, -128, 127, torch.int8)

    same_bits(built((1, 256), body, dtype=torch.int8), torch.arange(-128, 128).to(torch.int8)[None])


RANGES = (
    (-128, 127, torch.int8),
    (-5, 90, torch.int8),
    (0, 255, torch.uint8),
    (7, 31, torch.uint8),
    (-32768, 32767, torch.int32),
    (-9, 9, torch.int32),
)


@pytest.mark.parametrize(("qmin", "qmax", "dtype"), RANGES)
@pytest.mark.parametrize("scale", [0.03, 1 / 3, 2.0**-7, 1e-30, 1e30])
def test_borders_round_half_even_of_a_float32_quotient(same_bits: Check, qmin: int, qmax: int, dtype: torch.dtype, scale: float) -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        return edit.call(fxp.dequantize.default, edit.call(fxp.quantize.default, x, scale, qmin, qmax, dtype), scale)

    generator = torch.Generator().manual_seed(1)
    ties = (torch.arange(-400, 400) + 0.5) * torch.tensor(scale)
    anything = torch.randn(800, generator=generator) * 90 * scale
    largest = torch.tensor([0.0, -0.0, 3e38, -3e38]).repeat(200)
    same_bits(built((2, 4), body), torch.cat([ties, anything, largest]).reshape(-1, 4))


def test_ties_are_hit_and_go_to_even(same_bits: Check) -> None:
    weight, b, c = torch.eye(8, dtype=torch.int8).reshape(8, 8, 1, 1), torch.tensor([1 << k for k in range(8)], dtype=torch.int32), 8
    x = torch.arange(-128, 128).to(torch.int8).reshape(-1, 1, 1, 1).expand(256, 8, 2, 2).contiguous()
    products = x.to(torch.int32) * b.reshape(1, 8, 1, 1)
    half_up = (products + (1 << (c - 1))) >> c
    half_even = torch.round(products.double() / (1 << c)).to(torch.int32)
    assert int((half_up != half_even).sum()) > 200

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        acc = edit.call(fxp.conv2d.default, x, edit.add_tensor("weight", weight), None, [1, 1], [0] * 4, [1, 1], 1)
        return requantized(edit, acc, b, (c, -128, 127, torch.int8), 1)

    program = built((1, 8, 2, 2), body, dtype=torch.int8)
    assert torch.equal(program.run(x)[0].to(torch.int32), half_even)
    same_bits(program, x)


def test_saturated_products_of_extremes(same_bits: Check) -> None:
    """255 * 127 in pairs leaves 16 bits: kernels that saturate there would show."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        acc = edit.call(fxp.linear.default, x, edit.add_tensor("weight", torch.full((16, 512), 127, dtype=torch.int8)), None)
        return requantized(edit, acc, torch.tensor([1], dtype=torch.int32), (16, 0, 255, torch.uint8), -1)

    same_bits(built((1, 512), body, dtype=torch.uint8), torch.full((5, 512), 255, dtype=torch.uint8))


def test_a_sum_with_two_readers_and_a_bias(same_bits: Check) -> None:
    generator = torch.Generator().manual_seed(5)
    weight = extreme(generator, (4, 3, 3, 3), torch.int8).clamp(-127, 127)

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        bias = edit.add_tensor("bias", torch.tensor([1000, -1000, 77, 2**24], dtype=torch.int32))
        acc = edit.call(fxp.conv2d.default, x, edit.add_tensor("weight", weight), bias, [1, 1], [1] * 4, [1, 1], 1)
        b = torch.tensor([90], dtype=torch.int32)
        first, second = (requantized(edit, acc, b, (16, -128, 127, torch.int8), axis) for axis in (1, 2))
        return edit.call(fxp.add.default, first, second, 3, 5, 3, -128, 127, torch.int8)

    same_bits(built((1, 3, 5, 4), body, dtype=torch.int8), extreme(generator, (3, 3, 5, 4), torch.int8))


def test_multipliers_along_another_axis_than_the_channels(same_bits: Check) -> None:
    generator = torch.Generator().manual_seed(6)
    weight, b = extreme(generator, (4, 3, 1, 1), torch.int8).clamp(-127, 127), torch.tensor([100, 200, 300, 500], dtype=torch.int32)

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        acc = edit.call(fxp.conv2d.default, x, edit.add_tensor("weight", weight), None, [1, 1], [0] * 4, [1, 1], 1)
        return requantized(edit, acc, b, (14, -128, 127, torch.int8), 2)

    same_bits(built((1, 3, 4, 5), body, dtype=torch.uint8), extreme(generator, (3, 3, 4, 5), torch.uint8))


def test_a_bias_that_leaves_no_room_is_added_first(same_bits: Check) -> None:
    """The clamp's bound less the bias would leave int32."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        bias = edit.add_tensor("bias", torch.tensor([-(2**31) + 2000, 2**31 - 2000], dtype=torch.int32))
        acc = edit.call(fxp.linear.default, x, edit.add_tensor("weight", torch.tensor([[1], [1]], dtype=torch.int8)), bias)
        return requantized(edit, acc, torch.tensor([1], dtype=torch.int32), (16, 100, 127, torch.int8), -1)

    same_bits(built((1, 1), body, dtype=torch.uint8), torch.arange(256).to(torch.uint8).reshape(-1, 1))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32])
def test_integer_borders_keep_the_programs_type(same_bits: Check, dtype: torch.dtype) -> None:
    limits = torch.iinfo(dtype)
    x = torch.linspace(limits.min, limits.max, 24, dtype=torch.float64).to(dtype).reshape(4, 2, 3)
    same_bits(built((1, 2, 3), lambda edit, x: edit.call(aten.permute.default, x, [0, -1, 1]), dtype=dtype), x)
