"""matmul, softmax and attention in TVM: the program's bits at extremes, with every mask, in rows and moved out of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from computed_cases import I8, NUMBERS, U8_, Case, attended, extreme, product, runs, together
from fxpress_backends.contract import Target
from fxpress_backends.tvm import TVM
from fxpress_backends.tvm.plan import plan
from fxpress_ir import Edit
from several import Attention, Input, several
from support import aten, exponentials, fxp
from torch import Tensor, fx
from tvm_cases import S8, U8, Check, requantized


def test_matmul(same_bits: Check) -> None:
    """Every pair of types; three and four dimensions; rows and columns that fill no tile, no vector and no word; operands spread."""
    cases = [
        Case([((3, 5), I8), ((5, 7), I8)], product(None)),
        Case([((3, 5), U8_), ((5, 7), U8_)], product(U8, 7)),
        Case([((2, 13, 40), U8_), ((2, 40, 17), I8)], product(S8, 17)),
        Case([((1, 9, 6), I8), ((3, 6, 33), I8)], product(U8)),
        Case([((3, 9, 6), U8_), ((1, 6, 16), I8)], product(None), spread=[1]),
        Case([((20, 64), I8), ((64, 16), U8_)], product(S8), spread=[0]),
    ]
    same_bits(together(cases), *runs(cases))


def softmax(bits: int, scale: float) -> Callable[..., fx.Node]:
    return lambda edit, x: edit.call(fxp.softmax.default, x, edit.add_tensor("table", exponentials(1 << 14, scale).int()), bits)


def test_softmax(same_bits: Check) -> None:
    cases = [
        Case([(shape, I8)], softmax(bits, scale))
        for bits in (8, 15)
        for shape, scale in (((7,), 0.05), ((3, 33), 0.3), ((2, 3, 100), 0.002), ((1,), 0.05), ((2, 1024), 0.01))
    ]
    program, batches = together(cases), runs(cases)
    batches[1][4] = torch.zeros_like(batches[1][4])  # a row of equal scores, whose sum is a power of two from 2**24 on
    same_bits(program, *batches)


TYPES = ((I8, I8, I8), (U8_, I8, U8_), (I8, I8, U8_), (U8_, I8, I8), (I8, U8_, I8))


def test_attention(same_bits: Check) -> None:
    """Lengths below and above a tile, a vector and 64 keys; widths that fill no word and no vector; three and four dimensions."""
    sizes = (((2,), 5, 7, 8, 4), ((3,), 1, 1, 3, 1), ((), 14, 133, 17, 20), ((2,), 50, 64, 16, 16), ((1,), 30, 19, 5, 33))
    cases = []
    for numbers, dtypes, (heads, queries, keys, depth, width) in zip(NUMBERS, TYPES, sizes, strict=True):
        shapes = [(*heads, queries, depth), (*heads, keys, depth), (*heads, keys, width)]
        cases.append(Case(list(zip(shapes, dtypes, strict=True)), attended(numbers, "qkv")))
    same_bits(together(cases), *runs(cases))


SPREAD: tuple[tuple[tuple[int, ...], tuple[int, ...], Sequence[int]], ...] = (
    ((2, 9, 70), (1, 1, 70), ()),
    ((1, 1, 70), (2, 9, 1), (4,)),
    ((2, 1, 1), (1, 9, 70), (3,)),
    ((9, 70), (2, 9, 70), (3,)),
)
"""Shapes of a mask and a bias beside the batch, and which of the two are for all of the batch; the last mask has no heads."""


def test_masks_and_biases(same_bits: Check) -> None:
    """Spread along each dimension, with fewer dimensions, in causal order and in any."""

    def body(numbers: Attention) -> Callable[..., fx.Node]:
        def masked(edit: Edit, q: fx.Node, k: fx.Node, v: fx.Node, mask: fx.Node, bias: fx.Node) -> fx.Node:
            one = edit.add_tensor("one", torch.tensor([1], dtype=torch.int32))
            bounded = edit.call(fxp.requantize.default, bias, one, 1, -30000, 30000, -1, torch.int32)
            return numbers.call(edit, {"q": q, "k": k, "v": v, "mask": mask, "bias": bounded})

        return masked

    cases = [
        Case([((2, 9, 24), I8), ((2, 70, 24), I8), ((2, 70, 16), I8), (mask, torch.bool), (bias, torch.int32)], body(numbers), spread)
        for numbers, (mask, bias, spread) in zip(NUMBERS, SPREAD, strict=False)
    ]
    same_bits(together(cases), *runs(cases))


def test_queries_that_see_nothing(same_bits: Check) -> None:
    """All of them, the first ones in causal order, some; masks spread along each dimension; keys that fill no vector."""
    names = ("q", "k", "v", "mask")
    cases = [
        Case(
            [((2, 9, 24), I8), ((2, keys, 24), I8), ((2, keys, 16), I8), (mask, torch.bool)],
            attended(Attention(causal=causal, unseen=unseen), names),
        )
        for keys, mask in ((70, (1, 1, 70)), (21, (2, 9, 21)), (5, (1, 9, 1)))
        for unseen in ("mean", "unmasked")
        for causal in (False, True)
    ]
    batches = runs(cases)
    for position in range(3, len(batches[1]), len(names)):
        batches[1][position][1, ..., :4] = False
    same_bits(together(cases), *batches)


def test_heads_are_split_off_and_joined(same_bits: Check) -> None:
    """What a transformer's block does before and after; queries, keys and values from one tensor or from several."""

    def heads(edit: Edit, x: fx.Node, count: int, rows: int, width: int) -> fx.Node:
        return edit.call(aten.transpose.int, edit.call(aten.view.default, x, [-1, rows, count, width]), 1, 2)

    def joined(edit: Edit, y: fx.Node, rows: int, width: int) -> fx.Node:
        return edit.call(aten.reshape.default, edit.call(aten.transpose.int, y, 1, 2), [-1, rows, width])

    def block(count: int, rows: int, width: int, numbers: Attention) -> Callable[..., fx.Node]:
        def body(edit: Edit, x: fx.Node) -> fx.Node:
            split = heads(edit, x, count, rows, width)
            y = joined(edit, numbers.call(edit, dict.fromkeys("qkv", split)), rows, count * width)
            weight = torch.randint(-127, 128, (10, count * width), generator=torch.Generator().manual_seed(rows), dtype=I8)
            acc = edit.call(fxp.linear.default, y, edit.add_tensor("w", weight), None)
            return requantized(edit, acc, torch.tensor([99], dtype=torch.int32), 16, S8, -1)

        return body

    def from_one(edit: Edit, x: fx.Node) -> fx.Node:
        """One linear gave all three, side by side; each is cut off, then split."""
        q, k, v = (heads(edit, edit.call(aten.slice.Tensor, x, 2, 48 * part, 48 * part + 48), 3, 6, 16) for part in range(3))
        return NUMBERS[0].call(edit, {"q": q, "k": k, "v": v})

    cases = [
        Case([((19, 48), I8)], block(3, 19, 16, NUMBERS[2])),
        Case([((5, 40), I8)], block(2, 5, 20, NUMBERS[0])),
        Case([((6, 144), I8)], from_one),
    ]
    same_bits(together(cases), *runs(cases))


def test_the_result_is_read_as_an_image_and_as_rows(same_bits: Check) -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        y = NUMBERS[0].call(edit, dict.fromkeys("qkv", x))
        pooled = edit.call(fxp.max_pool2d.default, y, [2, 2], [1, 1], [0] * 4, [1, 1])
        again = NUMBERS[1].call(edit, {"q": y, "k": x, "v": y})
        image = edit.call(aten.slice.Tensor, edit.call(aten.slice.Tensor, again, 2, 1, 4), 3, 0, 7)
        return edit.call(fxp.add.default, pooled, image, 3, 5, 3, *S8)

    cases = [Case([((2, 4, 8), I8)], body)]
    same_bits(together(cases), *runs(cases))


def test_masks_and_biases_are_constants_and_moved_constants(same_bits: Check) -> None:
    generator = torch.Generator().manual_seed(9)
    mask, bias = (
        torch.rand(11, 11, generator=generator) < 0.6,
        torch.randint(-9999, 9999, (1, 2, 11, 11), generator=generator, dtype=torch.int32),
    )
    table = torch.rand(1, 1, 1, 9, generator=generator) < 0.5

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        kept = edit.call(aten.slice.Tensor, edit.call(aten.slice.Tensor, edit.add_tensor("mask", mask), 0, 0, 9), 1, 2, 11)
        added = edit.call(aten.slice.Tensor, edit.call(aten.slice.Tensor, edit.add_tensor("bias", bias), 2, 0, 9), 3, 0, 9)
        first = NUMBERS[0].call(edit, {**dict.fromkeys("qkv", x), "mask": kept, "bias": added})
        return NUMBERS[2].call(edit, {**dict.fromkeys("qkv", first), "mask": edit.add_tensor("table", table)})

    cases = [Case([((2, 9, 8), I8)], body)]
    same_bits(together(cases), *runs(cases))


def test_operands_may_be_constants(same_bits: Check) -> None:
    """In rows and as an image, of every storage."""
    generator = torch.Generator().manual_seed(4)
    columns, image = extreme(generator, (1, 1, 9, 20), U8_), extreme(generator, (1, 3, 4, 9), I8)

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        kernel = edit.add_tensor("kernel", torch.ones(3, 3, 3, 3, dtype=I8))
        acc = edit.call(fxp.conv2d.default, x, kernel, None, [1, 1], [1] * 4, [1, 1], 1)
        around = requantized(edit, acc, torch.tensor([900], dtype=torch.int32), 16, S8)
        total = edit.call(fxp.add.default, around, edit.add_tensor("image", image), 20000, 9000, 15, *S8)
        return edit.call(fxp.matmul.default, total, edit.add_tensor("columns", columns))

    cases = [Case([((3, 4, 9), I8)], body)]
    same_bits(together(cases), *runs(cases))


def test_lengths_stay_symbolic(same_bits: Check) -> None:
    """Heads split off and joined, a mask over the keys, scores and shares as tensors of their own; lengths of 1 and beyond 64."""

    def body(edit: Edit, x: fx.Node, y: fx.Node, mask: fx.Node) -> list[fx.Node]:
        queries, keys = (edit.call(aten.sym_size.int, operand, 1) for operand in (x, y))
        q, k = (
            edit.call(aten.transpose.int, edit.call(aten.view.default, operand, [-1, length, 3, 16]), 1, 2)
            for operand, length in ((x, queries), (y, keys))
        )
        first = NUMBERS[0].call(edit, {"q": q, "k": k, "v": k, "mask": mask})
        joined = edit.call(aten.reshape.default, edit.call(aten.transpose.int, first, 1, 2), [-1, queries, 48])
        products = edit.call(fxp.matmul.default, NUMBERS[3].call(edit, dict.fromkeys("qkv", q)), edit.call(aten.transpose.int, k, 2, 3))
        scores = requantized(edit, products, torch.tensor([40], dtype=torch.int32), 12, S8, -1)
        return [joined, edit.call(fxp.matmul.default, softmax(8, 0.05)(edit, scores), k)]

    inputs: list[Input] = [(("batch", "queries", 48), I8), (("batch", "keys", 48), I8), (("batch", 1, 1, "keys"), torch.bool)]
    generator = torch.Generator().manual_seed(6)

    def values(batch: int, queries: int, keys: int) -> list[Tensor]:
        shapes = ((batch, queries, 48), (batch, keys, 48), (batch, 1, 1, keys))
        return [extreme(generator, shape, dtype) for shape, (_, dtype) in zip(shapes, inputs, strict=True)]

    same_bits(several(inputs, body, {"queries": 512, "keys": 512}), values(1, 1, 1), values(2, 13, 70), values(3, 30, 129))


def attention_plan(target: Target, *, dtype: torch.dtype = I8, heads: int = 2, queries: int = 5) -> Any:
    shapes = [((heads, queries, 16), I8), ((heads, 7, 16), dtype), ((heads, 7, 16), I8)]
    program = together([Case(shapes, attended(NUMBERS[0], "qkv"))])
    assert TVM.legalize(program, target) == ()
    (group,) = (group for group in plan(program, target).groups if group.kernel.startswith("attention"))
    return group


def test_the_plan_says_why_it_is_slow(targets: dict[str, Target]) -> None:
    group = attention_plan(targets["tvm:x86-64"])
    assert (group.kernel, group.why) == ("attention_loops", "the target has no AVX512-VNNI")
    if "avx512-vbmi" in targets["tvm:native"].features:
        assert attention_plan(targets["tvm:native"]).kernel == "attention_vnni"
        unsigned = attention_plan(targets["tvm:native"], dtype=U8_)
        assert (unsigned.kernel, unsigned.why) == ("attention_loops", "its second operand has no sign")


def test_few_heads_of_many_queries_are_several_tasks(targets: dict[str, Target]) -> None:
    parts = {queries: attention_plan(targets["tvm:x86-64"], queries=queries).attributes["parts"] for queries in (5, 100, 200, 4000)}
    assert parts == {5: 1, 100: 2, 200: 4, 4000: 4}
    assert attention_plan(targets["tvm:x86-64"], heads=16, queries=200).attributes["parts"] == 1


@pytest.mark.parametrize(
    ("inputs", "body", "reason"),
    [
        ([(("batch", 8), I8)] * 3, attended(NUMBERS[0], "qkv"), "it has no leading dimension"),
        (
            [(("batch", 4, 8), I8), ((256,), torch.int32)],
            lambda edit, x, y: edit.call(fxp.softmax.default, x, y, 8),
            "its table is computed",
        ),
        (
            [(("batch", 4, 8), I8)],
            lambda edit, x: edit.call(fxp.multiply.default, x, edit.add_tensor("c", torch.ones(8, dtype=I8))),
            "fewer than 2 dimensions",
        ),
    ],
)
def test_refusals(inputs: list[Input], body: Callable[..., fx.Node], reason: str, targets: dict[str, Target]) -> None:
    refused = TVM.legalize(several(inputs, body, {"batch": 64}), targets["tvm:x86-64"])
    assert [reason in refusal.reason for refusal in refused] == [True]
