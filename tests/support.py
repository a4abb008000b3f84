"""Programs made by hand, for tests that need an integer program without the passes that make one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise

import torch
from fxpress_ir import Edit, Program, capture
from torch import Tensor, fx, nn

fxp = torch.ops.fxp
aten = torch.ops.aten


class _Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + x


@cache
def _twice(shape: tuple[int, ...], dtype: torch.dtype) -> Program:
    return capture(_Twice(), (torch.zeros(*shape, dtype=dtype),), dynamic_shapes={"x": {0: torch.export.Dim("batch")}})


def built(
    shape: Sequence[int], body: Callable[[Edit, fx.Node], fx.Node], *, stage: str = "integer", dtype: torch.dtype = torch.float32
) -> Program:
    """A program with one input ``x`` of `shape` (dimension 0 dynamic, named batch) whose graph `body` writes.

    `body` gets the edit, positioned after the input, and the input's node; it returns the node of the only output.
    """
    program = _twice(tuple(shape), dtype)
    edit = program.edit()
    x = edit.here(program.placeholders()[0])
    old = edit.here(program.outputs()[0])
    with edit.graph.inserting_before(old):
        new = body(edit, x)
    edit.replace(old, new)
    return edit.finish(stage=stage)


def multipliers(values: Sequence[int] | Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=torch.int32)


def conv(
    edit: Edit,
    x: fx.Node,
    weight: Tensor,
    bias: Tensor | None,
    b: Tensor,
    c: int,
    *,
    relu: bool,
    stride: int = 1,
    padding: int = 1,
    name: str = "conv",
) -> fx.Node:
    """conv2d and its requantisation to u8 (relu) or s8."""
    w = edit.add_tensor(f"{name}.weight", weight)
    bias_node = None if bias is None else edit.add_tensor(f"{name}.bias", bias)
    acc = edit.call(fxp.conv2d.default, x, w, bias_node, [stride, stride], [padding] * 4, [1, 1], 1)
    return requantize(edit, acc, b, c, relu=relu, axis=1, name=name)


def requantize(edit: Edit, acc: fx.Node, b: Tensor, c: int, *, relu: bool, axis: int, name: str) -> fx.Node:
    limits = (0, 255, axis, torch.uint8) if relu else (-128, 127, axis, torch.int8)
    return edit.call(fxp.requantize.default, acc, edit.add_tensor(f"{name}.b", b), c, *limits)


def narrow_net(bits: int = 4, *, outputs: int = 256) -> Program:
    """A linear of 64 inputs whose weights fill so many bits, and one of bytes behind it."""
    generator = torch.Generator().manual_seed(bits)

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        narrow = torch.randint(-(1 << (bits - 1)), 1 << (bits - 1), (outputs, 64), generator=generator, dtype=torch.int8)
        acc = edit.call(fxp.linear.default, x, edit.add_tensor("narrow", narrow), None)
        b = torch.randint(20, 90, (outputs,), generator=generator, dtype=torch.int32)
        hidden = requantize(edit, acc, b, 16, relu=True, axis=-1, name="hidden")
        wide = torch.randint(-127, 128, (16, outputs), generator=generator, dtype=torch.int8)
        return edit.call(fxp.linear.default, hidden, edit.add_tensor("wide", wide), None)

    return built((1, 64), body, dtype=torch.int8)


def residual_net(seed: int = 0, *, channels: int = 16, size: int = 8, inputs: int = 3, classes: int = 10) -> Program:
    """Every operator of the first slice once: two strides, s8 and u8, a residual add, both pools, 16-bit logits."""
    generator = torch.Generator().manual_seed(seed)

    def weight(*shape: int) -> Tensor:
        return torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)

    def bias(count: int) -> Tensor:
        return torch.randint(-5000, 5000, (count,), generator=generator, dtype=torch.int32)

    def b(count: int, least: int = 100, most: int = 700) -> Tensor:
        return torch.randint(least, most, (count,), generator=generator, dtype=torch.int32)

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        q = edit.call(fxp.quantize.default, x, 0.03, -128, 127, torch.int8)
        first = conv(edit, q, weight(channels, inputs, 3, 3), bias(channels), b(channels), 16, relu=True, name="first")
        pooled = edit.call(fxp.max_pool2d.default, first, [3, 3], [2, 2], [1, 1, 1, 1], [1, 1])
        left = conv(edit, pooled, weight(channels, channels, 3, 3), bias(channels), b(channels, 20, 90), 16, relu=True, name="left0")
        left = conv(edit, left, weight(channels, channels, 3, 3), bias(channels), b(channels, 20, 90), 16, relu=False, name="left1")
        summed = edit.call(fxp.add.default, left, pooled, 15001, 9877, 14, 0, 255, torch.uint8)
        down = conv(
            edit, summed, weight(2 * channels, channels, 3, 3), None, b(2 * channels, 20, 90), 16, relu=False, stride=2, name="down"
        )
        side = conv(
            edit,
            summed,
            weight(2 * channels, channels, 1, 1),
            None,
            b(2 * channels, 50, 200),
            16,
            relu=False,
            stride=2,
            padding=0,
            name="side",
        )
        summed = edit.call(fxp.add.default, down, side, 20011, 30011, 15, -128, 127, torch.int8)
        window = [(size + 1) // 2 // 2 + (size + 1) // 2 % 2] * 2
        sums = edit.call(fxp.sum_pool2d.default, summed, window, window, [0, 0, 0, 0])
        mean = requantize(edit, sums, multipliers([9001]), 15, relu=False, axis=1, name="mean")
        flat = edit.call(aten.flatten.using_ints, mean, 1)
        acc = edit.call(
            fxp.linear.default,
            flat,
            edit.add_tensor("head.weight", weight(classes, 2 * channels)),
            edit.add_tensor("head.bias", bias(classes)),
        )
        logits = edit.call(
            fxp.requantize.default, acc, edit.add_tensor("head.b", b(classes, 3000, 9000)), 15, -32768, 32767, -1, torch.int32
        )
        return edit.call(fxp.dequantize.default, logits, 0.001)

    return built((1, inputs, size, size), body)


def moving_net(seed: int = 0) -> Program:
    """Every operator that the residual net lacks: tables, products, values that change places, and one of 16 bits."""
    generator = torch.Generator().manual_seed(seed)

    def codes(*shape: int, dtype: torch.dtype = torch.int8) -> Tensor:
        limits = torch.iinfo(dtype)
        return torch.randint(limits.min, limits.max + 1, shape, generator=generator, dtype=dtype)

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        q = edit.call(fxp.quantize.default, x, 0.02, -128, 127, torch.int8)
        padded = edit.call(fxp.pad2d.default, q, [1, 0, 2, 3], -7)
        near = edit.call(fxp.select2d.default, padded, [0, 0, 3, 1, 8, 9, 9, 2], [5, 4, 4, 8, 0, 0, 1, 7])
        spread = edit.call(fxp.insert_zeros.default, near, [2, 3])
        function = edit.call(fxp.lut.default, near, edit.add_tensor("table", codes(6, 256)), 1)
        joined = edit.call(fxp.concat.default, [near, function], 1)
        gates = edit.call(fxp.lut.default, joined, edit.add_tensor("gates", codes(1, 256, dtype=torch.uint8)), 1)
        first = edit.call(aten.slice.Tensor, gates, 2, 0, 1, 1)
        acc = edit.call(fxp.multiply.default, joined, edit.call(aten.expand.default, first, [-1, -1, 8, -1]))
        scaled = requantize(edit, acc, multipliers([301]), 16, relu=False, axis=1, name="scaled")
        thin = edit.call(aten.slice.Tensor, edit.call(aten.slice.Tensor, spread, 2, 0, 2**63 - 1, 2), 3, 1, 2**63 - 1, 3)
        twice = edit.call(fxp.concat.default, [thin, thin], 1)
        less = edit.call(fxp.add.default, scaled, twice, 20011, -9001, 15, -100, 90, torch.int8)
        wide = edit.call(fxp.requantize.default, less, edit.add_tensor("wide.b", multipliers([3001])), 4, -32768, 32767, 1, torch.int16)
        knots = torch.randint(-32768, 32768, (1, 513), generator=generator).to(torch.int16)
        curve = edit.call(fxp.lut16.default, wide, edit.add_tensor("knots", knots), 1)
        return edit.call(fxp.dequantize.default, curve, 0.5)

    return built((1, 6, 7, 6), body)


def attending_net(seed: int = 0) -> Program:
    """Every operator of transformers: heads of [batch, 6, 16], turned by tables that are moved constants."""
    generator = torch.Generator().manual_seed(seed)

    def angles(edit: Edit, name: str) -> fx.Node:
        """Rows 0 to 5 of a Q14 table [9, 8] as [1, 1, 6, 8]."""
        table = torch.randint(-16384, 16385, (9, 8), generator=generator).to(torch.int16)
        rows = edit.call(aten.slice.Tensor, edit.add_tensor(name, table), 0, 0, 6)
        return edit.call(aten.unsqueeze.default, edit.call(aten.unsqueeze.default, rows, 0), 1)

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        q = edit.call(fxp.quantize.default, x, 0.02, -128, 127, torch.int8)
        unit = edit.call(fxp.normalize.default, q, 700, True)
        gain, shift = (torch.randint(-most, most, (16,), generator=generator, dtype=torch.int32) for most in (4000, 2**20))
        parts = edit.add_tensor("gain", gain), edit.add_tensor("shift", shift)
        scaled = edit.call(fxp.affine.default, unit, *parts, 16, -128, 127, -1, torch.int8)
        heads = edit.call(aten.transpose.int, edit.call(aten.view.default, scaled, [-1, 6, 2, 8]), 1, 2)
        turned = edit.call(fxp.rotary.default, heads, angles(edit, "cosine"), angles(edit, "sine"), 14, -128, 127, torch.int8)
        columns = edit.call(aten.transpose.int, heads, 2, 3)
        products = edit.call(fxp.matmul.default, turned, columns)
        scores = requantize(edit, products, multipliers([17]), 11, relu=False, axis=-1, name="scores")
        shares = edit.call(fxp.softmax.default, scores, edit.add_tensor("exponentials", exponentials(1 << 14).int()), 8)
        mixed = requantize(edit, edit.call(fxp.matmul.default, shares, turned), multipliers([1]), 8, relu=False, axis=-1, name="mixed")
        table, mask = edit.add_tensor("weights", exponentials(255).to(torch.uint8)), torch.rand(1, 1, 6, 6, generator=generator) < 0.8
        operands = (turned, mixed, heads, edit.add_tensor("mask", mask), None, table)
        attended = edit.call(fxp.attention.default, *operands, 80, 15, 160, 15, -128, 127, True, torch.int8)
        joined = edit.call(aten.reshape.default, edit.call(aten.transpose.int, attended, 1, 2), [-1, 6, 16])
        return edit.call(fxp.dequantize.default, joined, 0.5)

    return built((1, 6, 16), body)


def exponentials(one: int, scale: float = 0.05) -> Tensor:
    """The table of a softmax: rn(one * exp(-scale * d)), float64 of shape [256]."""
    return torch.round(one * torch.exp(-scale * torch.arange(256, dtype=torch.float64)))


def turned_by_length(seed: int = 0, most: int = 9) -> Program:
    """x[batch, seq, 6] turned by the first seq rows of tables [most, 6]; the sine's are expanded along the batch."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"x": {0: torch.export.Dim("batch"), 1: torch.export.Dim("seq", max=most)}}
    program = capture(_Twice(), (torch.zeros(2, 3, 6, dtype=torch.int8),), dynamic_shapes=shapes)
    edit = program.edit()
    x, old = edit.here(program.placeholders()[0]), edit.here(program.outputs()[0])
    with edit.graph.inserting_before(old):
        batch, length = (edit.call(aten.sym_size.int, x, dimension) for dimension in (0, 1))
        tables = []
        for name in ("cosine", "sine"):
            table = torch.randint(-16384, 16385, (most, 6), generator=generator).to(torch.int16)
            rows = edit.call(aten.slice.Tensor, edit.add_tensor(name, table), 0, 0, length)
            tables.append(edit.call(aten.unsqueeze.default, rows, 0))
        tables[1] = edit.call(aten.expand.default, tables[1], [batch, -1, -1])
        new = edit.call(fxp.rotary.default, x, *tables, 14, -128, 127, torch.int8)
    edit.replace(old, new)
    return edit.finish(stage="integer")


def chain(*widths: int) -> Program:
    """Convolutions of images of 8 by 8 one after another."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        q = edit.call(fxp.quantize.default, x, 0.03, -128, 127, torch.int8)
        for number, (before, after) in enumerate(pairwise(widths)):
            weight = torch.ones(after, before, 3, 3, dtype=torch.int8)
            q = conv(edit, q, weight, None, torch.full((after,), 7, dtype=torch.int32), 12, relu=False, name=f"layer{number}")
        return edit.call(fxp.dequantize.default, q, 0.5)

    return built((1, widths[0], 8, 8), body)
