"""What the targets refuse, by node and with the way on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from fxpress_backends.tvm import TVM, cpu
from fxpress_backends.tvm.rules import RULES
from fxpress_ir import Edit, Program, verify
from support import aten, built, fxp, multipliers
from torch import fx

GENERIC = cpu.x86_64()
VNNI = cpu.native(("x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4", cpu.VNNI))
Body = Callable[[Edit, fx.Node], fx.Node]


def refused(program: Program, target: Any = GENERIC) -> str:
    (refusal,) = TVM.legalize(program, target)
    assert refusal.way_on
    return f"{refusal.node}: {refusal.reason}"


def doubled(edit: Edit, x: fx.Node) -> fx.Node:
    return edit.call(fxp.add.default, x, x, 1, 1, 1, -128, 127, torch.int8)


REFUSED: tuple[tuple[str, tuple[int, ...], torch.dtype, Body], ...] = (
    (
        "conv2d_default: padding [0, -1, 0, 0] is negative",
        (1, 2, 5, 5),
        torch.int8,
        lambda edit, x: edit.call(
            fxp.conv2d.default, x, edit.add_tensor("w", torch.ones(2, 2, 1, 1, dtype=torch.int8)), None, [1, 1], [0, -1, 0, 0], [1, 1], 1
        ),
    ),
    (
        "flatten_using_ints: shape ['7*batch'] has fewer than 2 dimensions",
        (1, 7),
        torch.int8,
        lambda edit, x: edit.call(aten.flatten.using_ints, x, 0),
    ),
    (
        "slice_tensor: dimension 0, ((batch + 1)//2), is no sum of products of dynamic dimensions",
        (1, 7),
        torch.int8,
        lambda edit, x: edit.call(aten.slice.Tensor, x, 0, 0, 2**63 - 1, 2),
    ),
    (
        "quantize_default: range [-2147483648, 2147483647] is too wide",
        (1, 3),
        torch.float32,
        lambda edit, x: edit.call(fxp.quantize.default, x, 0.5, -(2**31), 2**31 - 1, torch.int32),
    ),
    (
        "concat_default: its xs is a constant of fewer than 2 dimensions",
        (1,),
        torch.int8,
        lambda edit, x: edit.call(fxp.concat.default, [x, edit.add_tensor("y", torch.ones(7, dtype=torch.int8))], 0),
    ),
    (
        "add_default: its y is a constant of fewer than 2 dimensions",
        (1, 3),
        torch.int8,
        lambda edit, x: edit.call(
            fxp.add.default, x, edit.add_tensor("y", torch.ones(3, dtype=torch.int8)), 1, 1, 1, -128, 127, torch.int8
        ),
    ),
    (
        "requantize_default: its b is computed",
        (1, 3),
        torch.int8,
        lambda edit, x: edit.call(
            fxp.requantize.default, x, edit.call(aten.clone.default, edit.add_tensor("b", multipliers([1]))), 1, -128, 127, 1, torch.int8
        ),
    ),
)


@pytest.mark.parametrize(("message", "shape", "dtype", "body"), REFUSED, ids=[message.split(" ")[0] for message, *_ in REFUSED])
def test_refusals(message: str, shape: tuple[int, ...], dtype: torch.dtype, body: Body) -> None:
    assert refused(built(shape, body, dtype=dtype)) == message


def test_fixed_batches_are_held_to_the_same(fixed: Callable[..., Program]) -> None:
    def along_the_batch(edit: Edit, x: fx.Node) -> fx.Node:
        return edit.call(fxp.requantize.default, x, edit.add_tensor("b", multipliers([1, 2, 3])), 1, -128, 127, 0, torch.int8)

    def other_rank(edit: Edit, x: fx.Node) -> fx.Node:
        return edit.call(fxp.add.default, x, edit.call(aten.unsqueeze.default, x, 0), 1, 1, 1, -128, 127, torch.int8)

    def a_table_an_image(edit: Edit, x: fx.Node) -> fx.Node:
        return edit.call(fxp.lut.default, x, edit.add_tensor("table", torch.zeros(3, 256, dtype=torch.int8)), 0)

    def product_of_ranks(edit: Edit, x: fx.Node) -> fx.Node:
        return edit.call(fxp.multiply.default, edit.call(aten.unsqueeze.default, x, 0), x)

    example = torch.zeros(3, 5, dtype=torch.int8)
    assert refused(fixed(example, along_the_batch)) == "requantize_default: its b runs along dimension 0"
    assert refused(fixed(example, a_table_an_image)) == "lut_default: its table runs along dimension 0"
    assert refused(fixed(example, other_rank)) == "add_default: combines shapes [3, 5] and [1, 3, 5]"
    assert refused(fixed(example, product_of_ranks)) == "multiply_default: combines shapes [1, 3, 5] and [3, 5]"


def test_simulated_program() -> None:
    assert refused(built((1, 3), doubled, dtype=torch.int8, stage="simulated")) == "program: its stage is simulated"


def test_an_operator_without_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(RULES, "add")
    assert refused(built((1, 3), doubled, dtype=torch.int8)) == "add_default: fxp.add.default has no TVM rule"


@pytest.mark.parametrize(("sign", "taken"), [(1, True), (-1, False)])
def test_accumulators_over_u8_storage_are_proved_again(sign: int, taken: bool) -> None:
    """64 inputs of weight 127 and a bias that leaves room for -128 of each: folding -128 * sum w helps it or bursts it."""
    bias = sign * (2**31 - 1 - 128 * 64 * 127)

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        weight = edit.add_tensor("weight", torch.full((1, 64), 127, dtype=torch.int8))
        return edit.call(fxp.linear.default, x, weight, edit.add_tensor("bias", torch.tensor([bias], dtype=torch.int32)))

    program = built((1, 64), body, dtype=torch.int8)
    verify(program)
    assert TVM.legalize(program, GENERIC) == ()
    if taken:
        assert TVM.legalize(program, VNNI) == ()
    else:
        assert refused(program, VNNI) == f"linear_default: its accumulator reaches {2**31 - 1 + 255 * 64 * 127} over u8 storage"


def test_doubling_is_taken() -> None:
    assert TVM.legalize(built((1, 3), doubled, dtype=torch.int8), GENERIC) == ()
