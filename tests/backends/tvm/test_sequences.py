"""Batch and length stay symbolic: one build gives the bits at every size, however the dimensions are moved, joined and cut."""

from __future__ import annotations

import json
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fxpress_backends.contract import Target
from fxpress_backends.tvm import TVM, cpu
from fxpress_backends.tvm.plan import plan
from fxpress_ir import Edit, Program
from several import Attention, several
from support import aten, exponentials, fxp
from torch import Tensor, fx
from tvm_cases import S8, S16, U8, Check, Limits, biases, multipliers, requantized, weights

Body = Callable[[Edit, fx.Node], fx.Node]
Sizes = tuple[int | str, ...]
Case = tuple[Sizes, torch.dtype, Body]
LONGEST = 40
LENGTHS = ((1, 2), (3, 5), (2, 33))
VNNI = cpu.native(("x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4", cpu.VNNI, cpu.VBMI))


def in_sequence(cases: Sequence[Case]) -> Program:
    """One input and one output for each case; sizes named ``batch`` and ``seq`` stay symbolic."""

    def body(edit: Edit, *inputs: fx.Node) -> list[fx.Node]:
        return [body(edit, x) for x, (_, _, body) in zip(inputs, cases, strict=True)]

    return several([(sizes, dtype) for sizes, dtype, _ in cases], body, {"seq": LONGEST})


def shaped(sizes: Sizes, batch: int, length: int, dtype: torch.dtype) -> Tensor:
    return torch.zeros([{"batch": batch, "seq": length}.get(size, size) for size in sizes], dtype=dtype)  # type: ignore[misc, call-overload]


def drawn(generator: torch.Generator, like: Tensor) -> Tensor:
    """Extremes and anything; numbers of rows below 9."""
    if like.is_floating_point():
        return torch.randn(like.shape, generator=generator)
    low, high = {torch.int64: (0, 9), torch.bool: (0, 2)}.get(like.dtype) or (torch.iinfo(like.dtype).min, torch.iinfo(like.dtype).max + 1)
    values = torch.randint(low, high, like.shape, generator=generator)
    ends = torch.randint(0, 4, like.shape, generator=generator)
    return torch.where(ends == 0, low, torch.where(ends == 1, high - 1, values)).to(like.dtype)


def call(target: Any, *arguments: Any) -> Body:
    return lambda edit, x: edit.call(target, x, *arguments)


def then(*bodies: Body) -> Body:
    def together(edit: Edit, x: fx.Node) -> fx.Node:
        for body in bodies:
            x = body(edit, x)
        return x

    return together


def size(edit: Edit, x: fx.Node, dimension: int) -> fx.Node:
    return edit.call(aten.sym_size.int, x, dimension)


def twice(limits: Limits) -> Body:
    return lambda edit, x: edit.call(fxp.add.default, x, x, 3, 2, 2, *limits)


def table(edit: Edit, *shape: int, dtype: torch.dtype = torch.int8) -> fx.Node:
    return edit.add_tensor("table", drawn(torch.Generator().manual_seed(sum(shape)), torch.zeros(shape, dtype=dtype)))


def linear(outputs: int, inputs: int, limits: Limits | None) -> Body:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        generator = torch.Generator().manual_seed(inputs)
        values = edit.add_tensor("weight", weights(generator, outputs, inputs)), edit.add_tensor("bias", biases(generator, outputs))
        acc = edit.call(fxp.linear.default, x, *values)
        return acc if limits is None else requantized(edit, acc, multipliers(generator, outputs, inputs), 16, limits, -1)

    return body


def split_heads(width: int) -> Body:
    """[batch, seq, 4 * width] ==> [batch, 4, seq, width]."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        return edit.call(aten.transpose.int, edit.call(aten.view.default, x, [size(edit, x, 0), -1, 4, width]), 1, 2)

    return body


def join_heads(edit: Edit, x: fx.Node) -> fx.Node:
    return edit.call(aten.flatten.using_ints, edit.call(aten.transpose.int, x, 1, 2), 2)


def transposed_keys(edit: Edit, x: fx.Node) -> fx.Node:
    """Lengths innermost, rescaled head by head, and back."""
    keys = edit.call(aten.transpose.int, split_heads(8)(edit, x), -1, -2)
    scaled = requantized(edit, keys, torch.tensor([100, 300, 7, 256], dtype=torch.int32), 8, S8, 1)
    scaled = requantized(edit, scaled, torch.tensor([200], dtype=torch.int32), 8, S8, -1)
    return join_heads(edit, edit.call(aten.transpose.int, scaled, 2, 3))


def class_token(edit: Edit, x: fx.Node) -> fx.Node:
    """[batch, seq, 24] ==> [batch, seq + 1, 24], plus rows of a table of positions."""
    token = edit.call(aten.expand.default, table(edit, 1, 1, 24), [size(edit, x, 0), -1, -1])
    whole = edit.call(fxp.concat.default, [token, x], 1)
    places = edit.call(aten.slice.Tensor, table(edit, 1, LONGEST + 1, 24), 1, None, size(edit, whole, 1))
    return edit.call(fxp.add.default, whole, places, 3, -2, 2, *S8)


def flat(edit: Edit, x: fx.Node) -> fx.Node:
    rows = edit.call(aten.reshape.default, x, [edit.call(operator.mul, size(edit, x, 0), size(edit, x, 1)), 20])
    return edit.call(aten.reshape.default, linear(24, 20, U8)(edit, rows), [size(edit, x, 0), size(edit, x, 1), 24])


def heads_as_batch(edit: Edit, x: fx.Node) -> fx.Node:
    """[batch, 4, seq, 8] ==> [4 * batch, seq, 8], doubled, and back."""
    merged = edit.call(aten.reshape.default, split_heads(8)(edit, x), [edit.call(operator.mul, size(edit, x, 0), 4), -1, 8])
    return edit.call(aten.reshape.default, twice(S8)(edit, merged), [size(edit, x, 0), 4, -1, 8])


def halves(edit: Edit, x: fx.Node) -> fx.Node:
    """[batch, seq, 32] ==> [batch, 2 * seq, 16]."""
    return edit.call(aten.reshape.default, x, [size(edit, x, 0), edit.call(operator.mul, size(edit, x, 1), 2), 16])


def gated(edit: Edit, x: fx.Node) -> fx.Node:
    """By the first row, and by a table."""
    first = edit.call(aten.expand.default, edit.call(aten.slice.Tensor, x, 1, 0, 1), [-1, size(edit, x, 1), -1])
    acc = edit.call(fxp.multiply.default, x, edit.call(fxp.lut.default, first, table(edit, 1, 256), -1))
    scaled = requantized(edit, acc, torch.arange(1, 38, dtype=torch.int32) * 9, 16, S8, -1)
    return edit.call(fxp.lut.default, scaled, table(edit, 37, 256), 2)


def permuted_bytes(edit: Edit, x: fx.Node) -> fx.Node:
    return edit.call(fxp.lut.default, twice(S8)(edit, x), table(edit, 1, 256), -1)


def moved_masks(edit: Edit, x: fx.Node) -> fx.Node:
    """A constant's first rows and columns, and those of the transposed input."""
    length = size(edit, x, 2)
    causal = edit.add_tensor("causal", torch.ones(1, 1, LONGEST, LONGEST, dtype=torch.bool).tril())
    rows = edit.call(aten.slice.Tensor, edit.call(aten.slice.Tensor, causal, 2, None, length), 3, 0, length)
    turned = edit.call(aten.transpose.int, edit.call(aten.expand.default, rows, [size(edit, x, 0), -1, -1, -1]), 2, 3)
    return edit.call(aten.clone.default, turned)


def looked_up(edit: Edit, ids: fx.Node) -> fx.Node:
    """Rows by the numbers that enter, by the first of a constant and by one of them."""
    rows = edit.call(aten.embedding.default, table(edit, 9, 20), ids)
    numbers = edit.add_tensor("numbers", torch.arange(LONGEST).flip(0)[None])
    first = edit.call(aten.slice.Tensor, numbers, 1, 0, size(edit, ids, 1))
    places = edit.call(aten.embedding.default, table(edit, LONGEST, 20, dtype=torch.int16), first)
    fixed = edit.call(aten.embedding.default, table(edit, LONGEST, 20), edit.call(aten.slice.Tensor, numbers, 1, 3, 4))
    total = edit.call(fxp.add.default, rows, places, 999, 3, 9, *S8)
    return edit.call(fxp.add.default, total, fixed, 3, 2, 2, *S8)


def scores(edit: Edit, x: fx.Node) -> fx.Node:
    """Lengths along both last dimensions, joined along the first of them."""
    doubled = edit.call(fxp.add.default, x, edit.call(aten.transpose.int, x, 2, 3), 3, 5, 3, *S8)
    first = edit.call(aten.slice.Tensor, doubled, 2, 0, 1)
    joined = edit.call(fxp.concat.default, [first, doubled, first], 2)
    spread = edit.call(aten.expand.default, edit.call(aten.slice.Tensor, joined, 3, 1, 2), [-1, -1, -1, size(edit, x, 3)])
    acc = edit.call(fxp.multiply.default, joined, spread)
    return requantized(edit, acc, torch.tensor([5, 9, 77], dtype=torch.int32), 13, S8, 1)


def borders(edit: Edit, x: fx.Node) -> fx.Node:
    q = edit.call(fxp.quantize.default, x, 0.02, -128, 127, torch.int8)
    return edit.call(fxp.dequantize.default, edit.call(aten.transpose.int, twice(S8)(edit, q), 1, 2), 0.5)


def attended(edit: Edit, x: fx.Node) -> fx.Node:
    """Four heads in causal order, of which a mask shows all but the second key, and the linear layer that joins them."""
    length, shown = size(edit, x, 1), torch.arange(LONGEST) != 1
    mask = edit.call(aten.slice.Tensor, edit.add_tensor("shown", shown.expand(1, 1, LONGEST, LONGEST).contiguous()), 3, 0, length)
    mask = edit.call(aten.slice.Tensor, mask, 2, 0, length)
    heads = split_heads(16)(edit, x)
    return join_heads(edit, Attention(causal=True).call(edit, {"q": heads, "k": heads, "v": heads, "mask": mask}))


def attended_in_steps(edit: Edit, x: fx.Node) -> fx.Node:
    """Scores, their softmax and the mean, each a tensor."""
    heads = split_heads(8)(edit, x)
    products = edit.call(fxp.matmul.default, heads, edit.call(aten.transpose.int, heads, 2, 3))
    scores = requantized(edit, products, torch.tensor([17], dtype=torch.int32), 11, S8, -1)
    shares = edit.call(fxp.softmax.default, scores, edit.add_tensor("exponentials", exponentials(1 << 14).int()), 8)
    return requantized(edit, edit.call(fxp.matmul.default, shares, heads), torch.tensor([1], dtype=torch.int32), 8, S8, -1)


def normalized(edit: Edit, x: fx.Node) -> fx.Node:
    generator = torch.Generator().manual_seed(7)
    parts = (torch.randint(-most, most, (24,), generator=generator, dtype=torch.int32) for most in (4000, 2**20))
    unit = edit.call(fxp.normalize.default, x, 700, True)
    return edit.call(fxp.affine.default, unit, *(edit.add_tensor("part", part) for part in parts), 16, -128, 127, -1, torch.int8)


X: Sizes = ("batch", "seq")
CASES: dict[str, tuple[Sizes, torch.dtype, Body]] = {
    "heads and back": ((*X, 32), torch.int8, then(split_heads(8), twice(S8), join_heads)),
    "heads of 5": ((*X, 20), torch.uint8, then(split_heads(5), twice(U8))),
    "linear of heads": ((*X, 40), torch.int8, then(split_heads(10), linear(7, 10, S8))),
    "rows": ((*X, 20), torch.uint8, then(linear(33, 20, U8), linear(5, 33, None))),
    "wide": ((*X, 20), torch.int8, linear(33, 20, S16)),
    "keys": ((*X, 32), torch.int8, transposed_keys),
    "class token": ((*X, 24), torch.int8, class_token),
    "its row": ((*X, 24), torch.int8, then(class_token, call(aten.select.int, 1, 0), linear(5, 24, S8))),
    "last row": ((*X, 24), torch.int8, then(class_token, call(aten.select.int, 1, -1))),
    "without it": ((*X, 24), torch.int8, then(class_token, call(aten.slice.Tensor, 1, 1, sys.maxsize), twice(S8))),
    "last two": ((*X, 24), torch.int8, then(class_token, call(aten.slice.Tensor, 1, -2, None), twice(S8))),
    "channels": ((*X, 24), torch.int8, then(twice(S8), call(aten.slice.Tensor, 2, 3, 20), call(aten.select.int, -1, 4))),
    "flat": ((*X, 20), torch.int8, flat),
    "heads as batch": ((*X, 32), torch.int8, heads_as_batch),
    "gated": ((*X, 37), torch.int8, gated),
    "bytes": ((*X, 80), torch.int8, permuted_bytes),
    "few bytes": ((*X, 3), torch.int8, permuted_bytes),
    "masks": (("batch", 1, "seq", "seq"), torch.bool, moved_masks),
    "turned mask": (("batch", 1, "seq", "seq"), torch.bool, call(aten.transpose.int, 2, 3)),
    "rows by number": (X, torch.int64, looked_up),
    "numbers": (X, torch.int64, then(call(aten.unsqueeze.default, 1), call(aten.transpose.int, 1, 2))),
    "scores": (("batch", 3, "seq", "seq"), torch.int8, scores),
    "borders": ((*X, 5), torch.float32, borders),
    "halves as rows": ((*X, 32), torch.int8, then(call(aten.reshape.default, [-1, 8]), linear(5, 8, S8))),
    "lengths of halves": ((*X, 32), torch.int8, then(halves, twice(S8))),
    "attention": ((*X, 64), torch.int8, attended),
    "attention in steps": ((*X, 32), torch.int8, attended_in_steps),
    "normalized": ((*X, 24), torch.int8, normalized),
    "lengths": (X, torch.int8, then(twice(S8), call(aten.transpose.int, 0, 1))),
}  # fmt: skip


@pytest.mark.parametrize("names", [list(CASES)[::2], list(CASES)[1::2]], ids=["even", "odd"])
def test_every_length_from_one_build(names: list[str], same_bits: Check) -> None:
    cases = [CASES[name] for name in names]
    generator = torch.Generator().manual_seed(len(cases))
    inputs = [[drawn(generator, shaped(sizes, *lengths, dtype)) for sizes, dtype, _ in cases] for lengths in LENGTHS]
    same_bits(in_sequence(cases), *inputs)


def test_a_number_outside_a_table_takes_the_nearest_row(loaded: Callable[..., Any], targets: Mapping[str, Target], tmp_path: Path) -> None:
    rows = torch.arange(45, dtype=torch.uint8).reshape(9, 5)
    program = in_sequence([(X, torch.int64, lambda edit, x: edit.call(aten.embedding.default, edit.add_tensor("rows", rows), x))])
    runner = loaded(program, targets["tvm:x86-64"], tmp_path)
    (result,) = runner.run([np.array([[-1, 2, 9], [-(2**62), 2**62, 8]])])
    np.testing.assert_array_equal(result, rows.numpy()[[[0, 2, 8], [0, 8, 8]]])


def joined_lengths(edit: Edit, x: fx.Node) -> fx.Node:
    turned = edit.call(aten.transpose.int, x, 1, 2)
    return edit.call(fxp.concat.default, [turned, turned], -1)


def halved_from(edit: Edit, x: fx.Node) -> fx.Node:
    half = edit.call(operator.floordiv, size(edit, x, 1), 2)
    return edit.call(aten.slice.Tensor, x, 1, half, edit.call(operator.add, half, 1))


REFUSED: dict[str, Case] = {
    "pad2d_default: an image of shape ['batch', 1, 'seq + 2', 8] is symbolic beyond dimension 0": (
        (*X, 6),
        torch.int8,
        then(call(aten.unsqueeze.default, 1), call(fxp.pad2d.default, [1, 1, 1, 1], 0)),
    ),
    "concat_default: joins along a last dimension of 2*seq": ((*X, 6), torch.int8, joined_lengths),
    "slice_tensor: dimension 1 is read from floordiv on, which is no number": ((*X, 6), torch.int8, halved_from),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refusals(message: str) -> None:
    refusals = TVM.legalize(in_sequence([REFUSED[message]]), VNNI)
    assert message in [f"{refusal.node}: {refusal.reason}" for refusal in refusals]
    assert all(refusal.way_on for refusal in refusals)


def kernels(sizes: Sizes, dtype: torch.dtype, body: Body) -> list[str]:
    return [group.kernel for group in plan(in_sequence([(sizes, dtype, body)]), VNNI).groups]


def test_what_lies_where_it_is_read_is_not_copied() -> None:
    """Images between convolutions and layers over channels; constants that are moved by numbers."""

    def over_channels(edit: Edit, x: fx.Node) -> fx.Node:
        image = edit.call(fxp.max_pool2d.default, x, [2, 2], [1, 1], [0] * 4, [1, 1])
        rows = linear(20, 20, U8)(edit, edit.call(aten.permute.default, image, [0, 2, 3, 1]))
        back = edit.call(aten.permute.default, rows, [0, 3, 1, 2])
        return edit.call(fxp.max_pool2d.default, back, [2, 2], [1, 1], [0] * 4, [1, 1])

    def moved_table(edit: Edit, x: fx.Node) -> fx.Node:
        places = edit.call(aten.transpose.int, edit.call(aten.unsqueeze.default, table(edit, 24), 0), 0, 1)
        places = edit.call(aten.unsqueeze.default, edit.call(aten.flatten.using_ints, places, 0), 0)
        return edit.call(fxp.add.default, x, edit.call(aten.unsqueeze.default, places, 0), 3, -2, 2, *S8)

    assert kernels(("batch", 20, 4, 4), torch.uint8, over_channels) == [
        *["convert", "max_pool2d", "view", "linear_vnni", "view", "max_pool2d", "convert"]
    ]
    assert kernels((*X, 24), torch.int8, moved_table) == ["convert", "add", "convert"]


def test_permutes_of_bytes_take_rows_of_a_fixed_width() -> None:
    assert kernels((*X, 80), torch.int8, permuted_bytes)[2] == "lut_permute"
    assert kernels((*X, 3), torch.int8, permuted_bytes)[2] == "lut"
    assert kernels(("batch", "seq", 4, 3), torch.int8, permuted_bytes)[2] == "lut_permute"
    assert kernels(("batch", 3, "seq", "seq"), torch.int8, permuted_bytes)[2] == "lut"


def test_a_plan_says_sizes_in_names() -> None:
    made = plan(in_sequence([CASES["class token"]]), VNNI)
    assert "  concat_default: uint8[batch, seq + 1, 32], zero point 128" in str(made).splitlines()
    assert json.loads(json.dumps(made.data()))["buffers"][4]["shape"] == ["seq + 1", 24]
    keys = str(plan(in_sequence([CASES["keys"]]), VNNI))
    assert "  requantize_default: uint8[batch, 4, 8, 16*ceil(seq/16)], zero point 128" in keys.splitlines()
