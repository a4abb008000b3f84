"""Products, tables, differences and narrow ranges give the bits of their operators: both signs, every byte, broadcast operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from fxpress_ir import Edit, Program
from support import fxp
from torch import fx
from tvm_cases import BYTES, S8, S16, U8, Body, Check, Limits, biases, convolution, multipliers, requantized, weights

RELU6, POSITIVE = (0, 229, torch.uint8), (0, 127, torch.int8)
SHORT = (-32768, 32767, torch.int16)


def pooled(window: Sequence[int]) -> Body:
    return lambda edit, x: edit.call(fxp.max_pool2d.default, x, list(window), list(window), [0] * 4, [1, 1])


def other_sign(edit: Edit, x: fx.Node) -> fx.Node:
    return requantized(edit, x, torch.tensor([16384], dtype=torch.int32), 15, U8)


def one_channel(edit: Edit, x: fx.Node) -> fx.Node:
    return convolution((17, 1, 1, (3, 5), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)), 1, S8)(edit, x)


def product(second: Body, limits: Limits | None, b: Sequence[int] = (300,), axis: int = 1, *, turned: bool = False) -> Body:
    """x times something computed from it, either first, requantised where limits are given."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        operands = (x, second(edit, x))
        acc = edit.call(fxp.multiply.default, *(operands[::-1] if turned else operands))
        return (
            acc if limits is None else requantized(edit, acc, torch.tensor(b, dtype=torch.int32), 15 if limits is S16 else 16, limits, axis)
        )

    return body


@BYTES
def test_multiply(dtype: torch.dtype, same_on_extremes: Check) -> None:
    """Squares, other signs, and operands spread along rows, columns, channels and all of them; raw, fused, and not fused along rows."""
    image: tuple[int, ...] = (17, 3, 5)
    bodies = (
        product(lambda edit, x: x, None),
        product(other_sign, S8, range(100, 117)),
        product(pooled([3, 5]), S8),
        product(pooled([3, 5]), U8, range(200, 217), turned=True),
        product(pooled([1, 5]), RELU6),
        product(pooled([3, 1]), None, turned=True),
        product(one_channel, S8),
        product(other_sign, S16, [9000, 400, 32767], 2),
        product(lambda edit, x: edit.call(fxp.max_pool2d.default, one_channel(edit, x), [3, 5], [1, 1], [0] * 4, [1, 1]), POSITIVE),
    )
    flat = ((19,), product(other_sign, S8, range(90, 109), -1)), ((2, 19), product(other_sign, U8, [7, 900], 1))
    same_on_extremes([*((image, dtype, body) for body in bodies), *((shape, dtype, body) for shape, body in flat)])


@BYTES
def test_a_product_with_two_readers(dtype: torch.dtype, same_on_extremes: Check) -> None:
    """It is stored in 32 bits and requantised twice."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        acc = edit.call(fxp.multiply.default, x, pooled([2, 2])(edit, x))
        first, second = (requantized(edit, acc, torch.tensor([b], dtype=torch.int32), 16, S8) for b in (300, 700))
        return edit.call(fxp.add.default, first, second, 20011, -30011, 15, *S8)

    same_on_extremes([((33, 2, 2), dtype, body)])


def looked_up(rows: int, wanted: torch.dtype, axis: int, then: Body | None = None) -> Body:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        limits = torch.iinfo(wanted)
        generator = torch.Generator().manual_seed(rows)
        table = torch.randint(limits.min, limits.max + 1, (rows, 256), generator=generator).to(wanted)
        y = edit.call(fxp.lut.default, x, edit.add_tensor("table", table), axis)
        return y if then is None else then(edit, y)

    return body


@BYTES
def test_lut(dtype: torch.dtype, side_by_side: Check, same_bits: Check) -> None:
    """All 256 bytes; rows of pixels below, at and above 64 bytes; a table a channel, a row and a column; a halo around the result."""
    convolved = convolution((20, 9, 1, (4, 8), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)), 1, S8)
    settings: tuple[tuple[tuple[int, ...], Body], ...] = (
        ((16, 4, 4), looked_up(1, torch.int8, 1)),
        ((16, 4, 4), looked_up(1, torch.uint8, 0)),
        ((20, 4, 8), looked_up(1, torch.int8, 1, convolved)),
        ((3, 7, 5), looked_up(1, torch.uint8, 1)),
        ((3, 9, 3), looked_up(1, torch.int8, 1)),
        ((300, 1, 1), looked_up(1, torch.int8, 1)),
        ((64,), looked_up(1, torch.uint8, 1)),
        ((40,), looked_up(1, torch.int8, 1)),
        ((5, 100), looked_up(1, torch.uint8, 2)),
        ((20, 4, 8), looked_up(20, torch.uint8, 1, convolved)),
        ((17, 4, 4), looked_up(17, torch.int8, -3)),
        ((5, 6, 3), looked_up(6, torch.uint8, 2)),
        ((5, 6, 3), looked_up(3, torch.int8, 3)),
        ((300,), looked_up(300, torch.int8, 1)),
        ((7, 20), looked_up(7, torch.uint8, 1)),
    )
    program = side_by_side([(shape, dtype, body) for shape, body in settings])
    least = torch.iinfo(dtype).min

    def every_byte(batch: int, *shape: int) -> torch.Tensor:
        count = torch.Size((batch, *shape)).numel()
        return (torch.arange(count) * 7 % 256 + least).to(dtype).reshape(batch, *shape)

    same_bits(program, [every_byte(8, *shape) for shape, _ in settings], [every_byte(1, *shape) for shape, _ in settings])


def test_a_table_of_the_codes_that_occur(fixed: Callable[..., Program], same_bits: Check) -> None:
    """Proved codes may need fewer than 256 entries."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        small = edit.call(fxp.requantize.default, x, edit.add_tensor("b", torch.tensor([1], dtype=torch.int32)), 4, 0, 9, 1, torch.uint8)
        return edit.call(fxp.lut.default, small, edit.add_tensor("t", torch.arange(10, dtype=torch.uint8).flip(0)[None] * 3), 1)

    example = torch.arange(256, dtype=torch.uint8).reshape(4, 64)
    same_bits(fixed(example, body), [example])


@BYTES
def test_differences(dtype: torch.dtype, same_on_extremes: Check) -> None:
    """A negative multiplier subtracts: from itself (zero, ties), from the other sign, spread along rows, columns and channels."""

    def difference(second: Body, bx: int, by: int, c: int, limits: Limits, *, turned: bool = False) -> Body:
        def body(edit: Edit, x: fx.Node) -> fx.Node:
            operands = (x, second(edit, x))
            return edit.call(fxp.add.default, *(operands[::-1] if turned else operands), bx, by, c, *limits)

        return body

    bodies = (
        difference(lambda edit, x: x, 12345, -12345, 14, S8),
        difference(lambda edit, x: x, 3, -1, 2, U8),
        difference(other_sign, 32767, -32767, 15, S8),
        difference(pooled([3, 5]), 20001, -10001, 15, RELU6),
        difference(pooled([1, 5]), 5, -3, 2, POSITIVE, turned=True),
        difference(one_channel, 5, -3, 3, (-7, 100, torch.int8)),
    )
    same_on_extremes([((17, 3, 5), dtype, body) for body in bodies])


@pytest.mark.parametrize(
    "limits", [RELU6, POSITIVE, (-5, 90, torch.int8), (7, 8, torch.uint8)], ids=lambda limits: f"{limits[0]}-{limits[1]}"
)
def test_narrow_ranges(limits: Limits, same_on_extremes: Check) -> None:
    """Bounds inside the type, even and odd, alone, in the registers of convolutions and linears, and read by the next operator."""
    case = (20, 24, 1, (4, 5), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))

    def linear(edit: Edit, x: fx.Node) -> fx.Node:
        acc = edit.call(fxp.linear.default, x, edit.add_tensor("w", torch.full((5, 19), 9, dtype=torch.int8)), None)
        return requantized(edit, acc, torch.tensor([2000], dtype=torch.int32), 16, limits, -1)

    def chained(edit: Edit, x: fx.Node) -> fx.Node:
        hidden = convolution(case, 1, limits)(edit, x)
        return convolution((24, 20, 1, *case[3:]), 2, limits)(edit, hidden)

    same_on_extremes(
        [
            ((20, 4, 5), torch.int8, chained),
            ((19,), torch.uint8, linear),
            ((20, 4, 5), torch.int8, lambda edit, x: requantized(edit, x, torch.tensor([3, 1, 5, 7], dtype=torch.int32), 2, limits, 2)),
        ]
    )


def curve(rows: int, axis: int, *, steep: bool = False) -> Body:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        generator = torch.Generator().manual_seed(rows)
        knots = (
            torch.tensor([-32768, 32767] * 257)[:513].expand(rows, 513)
            if steep
            else torch.randint(-(2**15), 2**15, (rows, 513), generator=generator)
        )
        return edit.call(fxp.lut16.default, x, edit.add_tensor("knots", knots.to(torch.int16).contiguous()), axis)

    return body


def summed(edit: Edit, x: fx.Node) -> fx.Node:
    return edit.call(fxp.add.default, x, curve(1, 1)(edit, x), 32767, -32767, 15, *SHORT)


def rearranged(edit: Edit, x: fx.Node) -> fx.Node:
    padded = edit.call(fxp.pad2d.default, x, [1, 0, 2, 3], -30000)
    spread = edit.call(fxp.insert_zeros.default, edit.call(fxp.select2d.default, padded, [0, 3, 1], [5, 4, 4, 0]), [2, 3])
    return edit.call(fxp.concat.default, [spread, spread], 1)


def windowed(edit: Edit, x: fx.Node) -> fx.Node:
    most = edit.call(fxp.max_pool2d.default, x, [3, 3], [2, 1], [1] * 4, [1, 1])
    sums = edit.call(fxp.sum_pool2d.default, most, [2, 2], [1, 1], [1, 0, 0, 1])
    return requantized(edit, sums, torch.tensor([8191], dtype=torch.int32), 15, SHORT)


def test_sixteen_bits(same_on_extremes: Check) -> None:
    """Every kernel that reads or writes 16-bit values, with weights and windows that leave their sums within 32 bits."""
    image, short = (17, 4, 6), torch.int16
    shapes = ((17, 5, 1, (4, 6), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)), (17, 17, 17, (4, 6), (3, 3), (2, 1), (1, 1, 1, 1), (1, 1)))
    convolutions = [convolution(shape, number, limits) for shape in shapes for number, limits in ((1, SHORT), (2, S8), (3, None))]
    bodies = (
        *convolutions,
        summed,
        rearranged,
        windowed,
        curve(1, 1),
        curve(17, 1),
        curve(4, 2, steep=True),
        product(curve(1, 1), SHORT, [1]),
    )

    def rows(edit: Edit, x: fx.Node) -> fx.Node:
        generator = torch.Generator().manual_seed(4)
        acc = edit.call(
            fxp.linear.default, x, edit.add_tensor("weight", weights(generator, 9, 50)), edit.add_tensor("bias", biases(generator, 9))
        )
        return requantized(edit, acc, multipliers(generator, 9, 50), 15, SHORT, -1)

    same_on_extremes(
        [*((image, short, body) for body in bodies), ((50,), short, rows), (image, torch.int8, convolution(shapes[0], 5, SHORT))]
    )
