"""Every kernel gives the bits of its operator: all sizes of window, odd channels, both signs, extremes and ties."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from fxpress_ir import Edit
from support import aten, fxp
from torch import Tensor, fx
from tvm_cases import BYTES, S8, S16, U8, Body, Check, Limits, convolution, linear, requantized

CONVOLUTIONS: tuple[tuple[Any, ...], ...] = (
    # inputs, outputs, groups, (height, width), kernel, stride, padding (top, left, bottom, right), dilation
    (3, 5, 1, (9, 7), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (1, 1, 1, (5, 5), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
    (17, 70, 1, (7, 7), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    (70, 17, 1, (6, 5), (1, 1), (2, 1), (0, 0, 0, 0), (1, 1)),
    (5, 64, 1, (8, 17), (2, 3), (1, 2), (2, 0, 1, 3), (1, 1)),
    (16, 33, 1, (11, 9), (3, 2), (2, 1), (0, 2, 3, 1), (2, 3)),
    (3, 16, 1, (16, 31), (7, 7), (2, 2), (3, 3, 3, 3), (1, 1)),
    (48, 48, 1, (1, 1), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (32, 32, 1, (1, 1), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
    (17, 17, 17, (6, 6), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (3, 6, 3, (5, 6), (3, 3), (2, 2), (1, 0, 1, 0), (1, 1)),
    (10, 15, 5, (5, 4), (2, 2), (1, 1), (0, 1, 1, 0), (2, 1)),
    (8, 64, 2, (4, 4), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    (68, 17, 17, (3, 3), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
)


@BYTES
def test_conv2d(dtype: torch.dtype, same_on_extremes: Check) -> None:
    kinds, turn = (U8, S8, None, S16), int(dtype == torch.uint8)
    cases = [
        ((case[0], *case[3]), dtype, convolution(case, number, kinds[(number + turn) % 4])) for number, case in enumerate(CONVOLUTIONS)
    ]
    same_on_extremes(cases)


@BYTES
def test_one_image_read_with_two_paddings(dtype: torch.dtype, same_on_extremes: Check) -> None:
    """The halo is the larger padding; the narrower convolution skips part of it, pools and sums see none of it."""
    wide = (20, 8, 1, (6, 6), (5, 5), (1, 1), (2, 3, 2, 1), (1, 1))
    narrow = (20, 8, 1, (6, 6), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        shared = edit.call(fxp.max_pool2d.default, x, [3, 3], [1, 1], [1, 1, 1, 1], [1, 1])
        left, right = (convolution(case, 1, S8)(edit, shared) for case in (wide, narrow))
        return edit.call(fxp.add.default, left, right, 13001, 9001, 14, -128, 127, torch.int8)

    same_on_extremes([((20, 6, 6), dtype, body)])


@BYTES
def test_linear(dtype: torch.dtype, same_on_extremes: Check) -> None:
    """Rows of a matrix, of a sequence and of an image; batches below, at and above the tile."""

    shapes = ((1,), (17,), (64,), (5, 17), (3, 70), (3, 5, 8), (2, 2, 2, 9), (33,))
    outputs = (1, 5, 64, 48, 10, 17, 3, 1000)
    cases = [(shape, dtype, linear(shape[-1], count, number)) for number, (shape, count) in enumerate(zip(shapes, outputs, strict=True))]
    same_on_extremes(cases, batches=(1, 6, 29))


@BYTES
def test_pools(dtype: torch.dtype, same_on_extremes: Check) -> None:
    """Windows over the edge add nothing; raw sums, and averages whose ties go to even."""
    maximum = (((3, 3), (2, 2), (1, 1, 1, 1), (1, 1)), ((2, 3), (1, 2), (0, 2, 1, 0), (1, 1)), ((2, 2), (1, 1), (1, 1, 1, 1), (2, 3)))
    total = (((2, 2), (2, 2), (0, 0, 0, 0)), ((3, 2), (1, 2), (2, 0, 1, 1)), ((6, 7), (6, 7), (0, 0, 0, 0)))

    def largest(window: Sequence[Sequence[int]]) -> Body:
        return lambda edit, x: edit.call(fxp.max_pool2d.default, x, *map(list, window))

    def summed(window: Sequence[Sequence[int]], limits: Limits | None, b: Sequence[int]) -> Body:
        def body(edit: Edit, x: fx.Node) -> fx.Node:
            acc = edit.call(fxp.sum_pool2d.default, x, *map(list, window))
            return acc if limits is None else requantized(edit, acc, torch.tensor(b, dtype=torch.int32), 2, limits)

        return body

    same_on_extremes(
        [((channels, 6, 7), dtype, largest(window)) for channels, window in zip((3, 64, 33), maximum, strict=True)]
        + [((channels, 6, 7), dtype, summed(window, None, [1])) for channels, window in zip((1, 17, 70), total, strict=True)]
        + [((channels, 6, 7), dtype, summed(window, S8, [1])) for channels, window in zip((1, 17, 70), total, strict=True)]
        + [((5, 6, 7), dtype, summed(total[0], U8, [1, 2, 3, 1, 4]))]
    )


def test_requantize_rounds_every_tie_to_even(side_by_side: Check, same_bits: Check) -> None:
    """Accumulators that nothing bounds, so that the pre-clip works; 8 and 16 bits; one multiplier, channels, rows and columns."""
    near = torch.arange(-2048, 2048, dtype=torch.int32)
    wide = torch.tensor([-(2**31), 2**31 - 1, -(2**31) + 1, 2**30, -(2**30), 65535, -65536, 0], dtype=torch.int32).repeat(512)
    x = torch.stack([near, wide]).reshape(2, 16, 16, 16)

    def body(limits: Limits, c: int, b: Sequence[int], axis: int) -> Body:
        return lambda edit, x: requantized(edit, x, torch.tensor(b, dtype=torch.int32), c, limits, axis)

    several = [1, 2, 3, 4, 32767, 1 << 14, 255, 257] * 2
    settings = [
        (U8, 1, [1], 1), (S8, 1, [3], 1), (U8, 4, several, 1), (S8, 16, several, 2), (S8, 8, several, -1), (S16, 1, [1], 0),
        (S16, 15, several, 3), ((0, 127, torch.int8), 2, [1], 1), ((-7, 100, torch.int8), 2, [1], 1), ((0, 2**23, torch.int32), 3, [5], 1),
    ]  # fmt: skip
    program = side_by_side([((16, 16, 16), torch.int32, body(*setting)) for setting in settings])
    same_bits(program, [x] * len(settings), [x.flip(0)] * len(settings))


@BYTES
def test_requantize_of_8_bits(dtype: torch.dtype, same_on_extremes: Check) -> None:
    """Multipliers along the columns of an image and of a matrix, and one for all."""

    def body(b: Sequence[int], c: int, limits: Limits, axis: int) -> Body:
        return lambda edit, x: requantized(edit, x, torch.tensor(b, dtype=torch.int32), c, limits, axis)

    image, matrix = (17, 2, 3), (2, 19)
    cases = [
        (image, body([3, 1, 2], 1, S8, 3)),
        (image, body([7], 3, U8, 0)),
        (matrix, body([5, 6], 3, S8, -2)),
        (matrix, body([9], 4, S8, 1)),
    ]
    same_on_extremes([(shape, dtype, chosen) for shape, chosen in cases])


@BYTES
def test_add(dtype: torch.dtype, same_on_extremes: Check) -> None:
    """With itself under two multipliers (ties), with the other sign, and spread along rows, columns and channels."""

    def twice(limits: Limits, bx: int, by: int, c: int) -> Body:
        return lambda edit, x: edit.call(fxp.add.default, x, x, bx, by, c, *limits)

    def mixed(edit: Edit, x: fx.Node) -> fx.Node:
        other = requantized(edit, x, torch.tensor([16384], dtype=torch.int32), 15, U8)
        return edit.call(fxp.add.default, other, x, 20011, 30011, 15, *S8)

    def spread(window: list[int]) -> Body:
        def body(edit: Edit, x: fx.Node) -> fx.Node:
            pooled = edit.call(fxp.max_pool2d.default, x, window, window, [0, 0, 0, 0], [1, 1])
            return edit.call(fxp.add.default, pooled, x, 1, 3, 2, *S8)

        return body

    def spread_channels(edit: Edit, x: fx.Node) -> fx.Node:
        weight = edit.add_tensor("one", torch.ones(1, 17, 1, 1, dtype=torch.int8))
        acc = edit.call(fxp.conv2d.default, x, weight, None, [1, 1], [0] * 4, [1, 1], 1)
        return edit.call(fxp.add.default, x, requantized(edit, acc, torch.tensor([99], dtype=torch.int32), 10, S8), 5, 3, 3, *S8)

    shape = (17, 3, 5)
    bodies = (twice(U8, 1, 2, 1), twice(S8, 15001, 9877, 14), mixed, spread([3, 5]), spread([1, 5]), spread([3, 1]), spread_channels)
    cases: list[Any] = [(shape, dtype, body) for body in bodies]
    cases.append(((19,), dtype, twice((3, 200, torch.uint8), 1, 4, 3)))
    cases.append(((2, 19), dtype, twice((-7, 101, torch.int8), 32767, 32767, 15)))
    same_on_extremes(cases)


SHAPES: tuple[tuple[tuple[int, ...], Callable[[Edit, fx.Node], fx.Node]], ...] = (
    ((5, 3, 4), lambda edit, x: edit.call(aten.flatten.using_ints, x, 1)),
    ((5, 1, 1), lambda edit, x: edit.call(aten.flatten.using_ints, x, 1)),
    ((5, 3, 4), lambda edit, x: edit.call(aten.flatten.using_ints, x, 0, 1)),
    ((6, 8), lambda edit, x: edit.call(aten.view.default, x, [-1, 4, 3])),
    ((48,), lambda edit, x: edit.call(aten.reshape.default, x, [-1, 3, 4, 4])),
    ((5, 3, 4), lambda edit, x: edit.call(aten.permute.default, x, [0, 2, 3, 1])),
    ((5, 3, 4), lambda edit, x: edit.call(aten.permute.default, x, [0, -1, 1, 2])),
    ((7, 20), lambda edit, x: edit.call(aten.transpose.int, x, 1, -1)),
    ((7, 20), lambda edit, x: edit.call(aten.unsqueeze.default, x, 1)),
    ((7, 1, 20), lambda edit, x: edit.call(aten.squeeze.dim, x, 2)),
    ((7, 1, 1), lambda edit, x: edit.call(aten.squeeze.dims, x, [2, 3])),
    ((7, 20), lambda edit, x: edit.call(aten.squeeze.dim, x, 1)),
    ((4, 3, 3), lambda edit, x: edit.call(aten.clone.default, x)),
    ((9,), lambda edit, x: edit.call(aten.contiguous.default, x)),
)


@BYTES
def test_shape_operators(dtype: torch.dtype, same_on_extremes: Check) -> None:
    """Alone, and between kernels that pad their channels and want a halo."""

    def between(move: Body) -> Body:
        def body(edit: Edit, x: fx.Node) -> fx.Node:
            before = edit.call(fxp.add.default, x, x, 3, 5, 3, *S8)
            moved = move(edit, before)
            return edit.call(fxp.add.default, moved, moved, 5, 7, 3, *U8)

        return body

    same_on_extremes([(shape, dtype, chosen) for shape, move in SHAPES for chosen in (move, between(move))], batches=(1, 6))


@BYTES
def test_image_moved_into_a_padded_convolution(dtype: torch.dtype, same_on_extremes: Check) -> None:
    case = (3, 20, 1, (4, 5), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        image = edit.call(aten.permute.default, edit.call(aten.clone.default, x), [0, 3, 1, 2])
        return convolution(case, 1, S8)(edit, edit.call(aten.contiguous.default, image))

    same_on_extremes([((4, 5, 3), dtype, body)])


def test_borders(side_by_side: Check, same_bits: Check) -> None:
    """Halves to even, one ulp beside them, saturation, negative zero; scales whose inverse is not their division."""
    scales = (0.03, 1.0, 0.1, 2.0**-7, 3.3e-5, 117.0)
    steps = torch.arange(-300, 300, dtype=torch.float32) + 0.5

    def body(scale: float, limits: Limits) -> Body:
        def there_and_back(edit: Edit, x: fx.Node) -> fx.Node:
            q = edit.call(fxp.quantize.default, x, scale, *limits)
            return edit.call(fxp.dequantize.default, q, scale) if scale < 1 else q

        return there_and_back

    def values(scale: float) -> Tensor:
        ties = steps * torch.tensor(scale)
        special = torch.tensor([0.0, -0.0, 3.4e38, -3.4e38, 1e-45, -1e-45, 1e10, -1e10]) * torch.tensor(min(1.0, scale * 8))
        beside = [torch.nextafter(ties, torch.tensor(sign * float("inf"))) for sign in (1, -1)]
        return torch.cat([ties, *beside, special, torch.randn(592, generator=torch.Generator().manual_seed(1)) * scale * 90])

    settings = [(scale, limits) for scale in scales for limits in (S8, U8, S16)]
    cases = [((40, 5, 3), torch.float32, body(*setting)) for setting in settings]
    program = side_by_side([*cases, *[((600,), torch.float32, body(*setting)) for setting in settings[:3]]])
    flat = [values(scale) for scale, _ in settings]
    same_bits(program, [*[x.reshape(4, 40, 5, 3) for x in flat], *[x.reshape(4, 600) for x in flat[:3]]])
