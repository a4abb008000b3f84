"""Bodies of small integer graphs for the TVM tests: weights, multipliers and convolutions that reach the extremes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from fxpress_ir import Edit
from support import fxp
from torch import Tensor, fx

Check = Callable[..., None]
Body = Callable[[Edit, fx.Node], fx.Node]
Limits = tuple[int, int, torch.dtype]
U8, S8, S16 = (0, 255, torch.uint8), (-128, 127, torch.int8), (-32768, 32767, torch.int32)
BYTES = pytest.mark.parametrize("dtype", [torch.int8, torch.uint8], ids=["s8", "u8"])


def weights(generator: torch.Generator, *shape: int) -> Tensor:
    """Random, with the first output channel all 127 and the last all -127."""
    drawn = torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)
    drawn[0], drawn[-1] = 127, -127
    return drawn


def biases(generator: torch.Generator, count: int) -> Tensor:
    return torch.randint(-9999, 9999, (count,), generator=generator, dtype=torch.int32)


def multipliers(generator: torch.Generator, count: int, depth: int) -> Tensor:
    """Around what fills an 8-bit result at c = 16, among them powers of two, which make ties."""
    middle = max(2, int(2**16 / (60 * depth**0.5)))
    drawn = torch.randint(max(1, middle // 4), middle * 4, (count,), generator=generator, dtype=torch.int32).clamp(max=32767)
    drawn[::3] = 2 ** int(middle).bit_length() // 2
    return drawn


def requantized(edit: Edit, acc: fx.Node, b: Tensor, c: int, limits: Limits, axis: int = 1) -> fx.Node:
    qmin, qmax, dtype = limits
    return edit.call(fxp.requantize.default, acc, edit.add_tensor("b", b), c, qmin, qmax, axis, dtype)


def convolution(case: Sequence[Any], number: int, limits: Limits | None) -> Body:
    inputs, outputs, groups, _, kernel, stride, padding, dilation = case
    generator = torch.Generator().manual_seed(number)
    depth = inputs // groups * kernel[0] * kernel[1]

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        weight = edit.add_tensor("weight", weights(generator, outputs, inputs // groups, *kernel))
        bias = edit.add_tensor("bias", biases(generator, outputs)) if number % 3 else None
        acc = edit.call(fxp.conv2d.default, x, weight, bias, list(stride), list(padding), list(dilation), groups)
        if limits is None:
            return acc
        b = multipliers(generator, outputs if number % 4 else 1, depth)
        return requantized(edit, acc, b, 15 if limits is S16 else 16, limits)

    return body


def linear(inputs: int, outputs: int, number: int) -> Body:
    """By the number: with a bias or without, to u8, s8, 32 or 16 bits."""
    generator = torch.Generator().manual_seed(number)

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        weight, bias = weights(generator, outputs, inputs), biases(generator, outputs)
        acc = edit.call(fxp.linear.default, x, edit.add_tensor("w", weight), edit.add_tensor("bias", bias) if number % 2 else None)
        limits = (U8, S8, None, S16)[number % 4]
        if limits is None:
            return acc
        return requantized(edit, acc, multipliers(generator, outputs, inputs), 15 if limits is S16 else 16, limits, -1)

    return body
