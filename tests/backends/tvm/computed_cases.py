"""matmul, softmax and attention for the TVM tests: operands at their extremes, many cases in one program, so that there is one build."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

import torch
from fxpress_ir import Edit, Program
from several import Attention, Input, several
from support import fxp
from torch import Tensor, fx
from tvm_cases import S8, S16, U8, Limits, convolution, multipliers, requantized

BATCHES = (1, 3)
I8, U8_ = torch.int8, torch.uint8


@dataclass(frozen=True)
class Case:
    """Inputs (their shapes without the batch, and types) and what is computed of them."""

    inputs: Sequence[tuple[tuple[int, ...], torch.dtype]]
    body: Callable[..., fx.Node]
    spread: Sequence[int] = field(default=())
    """Numbers of the inputs that have a batch of 1."""


def together(cases: Sequence[Case]) -> Program:
    """One program of all cases, so that there is one build."""
    inputs: list[Input] = []
    for case in cases:
        inputs += [((1 if number in case.spread else "batch", *shape), dtype) for number, (shape, dtype) in enumerate(case.inputs)]

    def body(edit: Edit, *xs: fx.Node) -> list[fx.Node]:
        left = list(xs)
        return [case.body(edit, *[left.pop(0) for _ in case.inputs]) for case in cases]

    return several(inputs, body)


def extreme(generator: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A third lowest, a third highest, a third anything; a mask mostly true, of whose first row nothing is."""
    if dtype == torch.bool:
        mask = torch.rand(shape, generator=generator) < 0.7
        mask[:1] &= shape[0] == 1
        return mask
    limits = (-(2**17), 2**17) if dtype == torch.int32 else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    choice, anything = torch.randint(0, 3, shape, generator=generator), torch.randint(limits[0], limits[1] + 1, shape, generator=generator)
    return torch.where(choice == 0, limits[0], torch.where(choice == 1, limits[1], anything)).to(dtype)


def runs(cases: Sequence[Case]) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(len(cases))
    shapes = [(number in case.spread, *entry) for case in cases for number, entry in enumerate(case.inputs)]
    return [[extreme(generator, (1 if alone else batch, *shape), dtype) for alone, shape, dtype in shapes] for batch in BATCHES]


def product(limits: Limits | None, columns: int = 1) -> Callable[..., fx.Node]:
    def body(edit: Edit, x: fx.Node, y: fx.Node) -> fx.Node:
        acc = edit.call(fxp.matmul.default, x, y)
        b = multipliers(torch.Generator().manual_seed(columns), columns, 30)
        return acc if limits is None else requantized(edit, acc, b, 16, limits, -1)

    return body


NUMBERS = (
    Attention(),
    Attention(b=5000, c=9, ob=1 << 14, oc=16),
    Attention(b=200, ob=129, qmin=0, qmax=255, dtype=torch.uint8, causal=True),
    Attention(b=32767, c=3, ob=32767, oc=9, qmin=-7, qmax=100),
    Attention(b=60, ob=2, oc=1, qmin=-32768, qmax=32767, dtype=torch.int16, causal=True),
)


def attended(numbers: Attention, names: Sequence[str]) -> Callable[..., fx.Node]:
    return lambda edit, *xs: numbers.call(edit, dict(zip(names, xs, strict=True)))


def _products(draw: Random) -> Case:
    rows, depth, columns, lead = draw.choice(SIZES), draw.choice(SIZES), draw.choice(WIDTHS), draw.randint(1, 2)
    left, right = ((lead, rows, depth), draw.choice(BYTES)), ((1, depth, columns), draw.choice(BYTES))
    return Case([left, right], product(draw.choice((None, U8, S8))), draw.choice(((), (1,))))


def _attentions(draw: Random) -> Case:
    queries, keys, depth, width = draw.choice(SIZES), draw.choice(SIZES), draw.choice(WIDTHS), draw.choice(WIDTHS)
    shapes = ((2, queries, depth), (2, keys, depth), (2, keys, width))
    return Case([(shape, draw.choice(BYTES)) for shape in shapes], attended(draw.choice(NUMBERS), "qkv"))


def _columns(draw: Random) -> Case:
    """A depthwise convolution whose kernel fits the padded image."""
    channels = draw.choice([width for width in WIDTHS if width > 1])
    kernel, stride, dilation = ((draw.randint(1, most), draw.randint(1, most)) for most in (5, 3, 2))
    padding = [draw.randint(0, size - 1) for size in (*kernel, *kernel)]
    reach = [(size - 1) * spread + 1 - sum(padding[place::2]) for place, (size, spread) in enumerate(zip(kernel, dilation, strict=True))]
    height, width = (draw.randint(max(1, least), 14) for least in reach)
    case = (channels, channels, channels, (height, width), kernel, stride, padding, dilation)
    body = convolution(case, draw.randint(0, 99), draw.choice((None, U8, S8, S16)))
    return Case([((channels, height, width), draw.choice(BYTES))], body)


def _tables(draw: Random) -> Case:
    """A table of bytes looked up along rows that permutes fill."""
    entries = torch.randint(-128, 128, (1, 256), generator=torch.Generator().manual_seed(draw.randint(0, 99))).to(I8)
    shape = (draw.randint(1, 9), draw.randint(64, 150))
    return Case([(shape, draw.choice(BYTES))], lambda edit, x: edit.call(fxp.lut.default, x, edit.add_tensor("table", entries), -1))


KINDS = (_products, _attentions, _columns, _tables)
SIZES, WIDTHS = (1, 2, 5, 16, 17, 33, 64, 70), (1, 2, 3, 7, 15, 16, 20, 33)
BYTES = (I8, U8_)


def drawn(seed: int) -> list[Case]:
    """One case of each kind, of random shapes and types."""
    return [kind(Random(4 * seed + place)) for place, kind in enumerate(KINDS)]
