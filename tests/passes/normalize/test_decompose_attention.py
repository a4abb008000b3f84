"""Attention written out: every mask, grouped heads, symbolic lengths; what cannot be is refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from float_programs import Function, applied, captured, operators, refusals, untouched
from fxpress_ir import Program, capture
from fxpress_passes import Context
from fxpress_passes.normalize.decompose_attention import DecomposeAttention
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

BOOLEAN = torch.rand(6, 6, generator=torch.Generator().manual_seed(1)) > 0.3
BOOLEAN.fill_diagonal_(True)
WRITTEN = ["aten.transpose.int", "aten.matmul", "aten.mul.Tensor", "aten.softmax.int", "aten.matmul"]


def attention(**options: Any) -> Program:
    return captured(lambda x: scaled_dot_product_attention(x, x * 2, x + 1, **options), 2, 4, 6, 8)


@pytest.mark.parametrize(
    "options",
    [{}, {"scale": 0.7}, {"attn_mask": BOOLEAN}, {"attn_mask": BOOLEAN.float() * 3 - 2}, {"is_causal": True}],
    ids=["plain", "scale", "boolean", "additive", "causal"],
)
def test_every_mask(options: dict[str, Any]) -> None:
    after = applied(DecomposeAttention(), attention(**options))
    assert "aten.scaled_dot_product_attention" not in operators(after)
    assert [name for name in operators(after) if name in WRITTEN][-4:] == [
        "aten.matmul",
        "aten.mul.Tensor",
        "aten.softmax.int",
        "aten.matmul",
    ]


@pytest.mark.parametrize("causal", [False, True])
def test_grouped_heads(causal: bool) -> None:
    """Each head of keys and values serves three of queries."""

    def body(x: Tensor) -> Tensor:
        return scaled_dot_product_attention(x, x[:, :2] * 2, x[:, 2:4] + 1, is_causal=causal, enable_gqa=True)

    after = applied(DecomposeAttention(), captured(body, 2, 6, 5, 8))
    assert operators(after).count("aten.expand") == 2


def test_three_dimensions_and_symbolic_lengths() -> None:
    body = Function(lambda x: scaled_dot_product_attention(x, x * 2, x + 1, is_causal=True))
    dynamic = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("seq", max=64)},)
    before = capture(body, (torch.zeros(2, 5, 8),), dynamic_shapes=dynamic)
    after = DecomposeAttention().apply(before, Context())
    for length in (1, 7, 64):
        x = torch.randn(3, length, 8, generator=torch.Generator().manual_seed(length))
        torch.testing.assert_close(after.run(x)[0], before.run(x)[0], rtol=1e-5, atol=1e-5)  # sums in another order


HIDING = torch.ones(6, 6, dtype=torch.bool)
HIDING[2] = False
HIDING[4, :3] = False
LOWEST = torch.finfo(torch.float32).min


class Masked(nn.Module):
    """Attention of x with a mask that is an input, or of a constant one."""

    def __init__(self, mask: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return scaled_dot_product_attention(x, x * 2, x + 1, mask if self.mask is None else self.mask)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(
    ("mask", "row"),
    [
        (HIDING, lambda x: 0 * x[..., 0, :]),
        (torch.zeros(6, 6).masked_fill(~HIDING, -math.inf), lambda x: 0 * x[..., 0, :]),
        (torch.zeros(6, 6).masked_fill(~HIDING, LOWEST), lambda x: (x + 1).mean(-2)),
        (torch.zeros(6, 6).masked_fill(~HIDING, -1e4), lambda x: scaled_dot_product_attention(x, x * 2, x + 1)[..., 2, :]),
    ],
    ids=["boolean", "infinite", "lowest", "-10000"],
)
def test_a_query_that_sees_nothing_gives_what_the_fused_operator_gives(
    mask: Tensor, row: Callable[[Tensor], Tensor], constant: bool
) -> None:
    before = capture(Masked(mask if constant else None), (torch.zeros(2, 4, 6, 8), mask))
    after = DecomposeAttention().apply(before, Context())
    x = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(3))
    found = after.run(x, mask)[0]
    torch.testing.assert_close(found, before.run(x, mask)[0], rtol=1e-5, atol=1e-5)  # sums in another order
    near = 2e-3 if float(mask.float().min()) == -1e4 else 1e-5  # -10000 + s is rounded to steps of 2**-10
    torch.testing.assert_close(found[..., 2, :], row(x), rtol=near, atol=near)


def test_the_softmax_is_plain_where_a_constant_mask_leaves_each_query_a_key() -> None:
    def softmax(mask: Tensor) -> list[str]:
        return [name for name in operators(DecomposeAttention().apply(attention(attn_mask=mask), Context())) if "softmax" in name]

    added = torch.zeros(6, 6)
    assert softmax(BOOLEAN) == softmax(added.masked_fill(~BOOLEAN, -math.inf)) == ["aten.softmax.int"]
    assert softmax(HIDING) == softmax(added.masked_fill(~HIDING, -math.inf)) == ["aten._safe_softmax"]


def test_what_cannot_be_written_out_is_refused_by_name() -> None:
    program = captured(lambda x: scaled_dot_product_attention(x, x, x), 2, 4, 6, 8, dtype=torch.float64)
    context = Context()
    with untouched(program):
        assert DecomposeAttention().apply(program, context) is program
    assert refusals(context) == ["scaled_dot_product_attention: it computes in torch.float64; it stays one operator, in floats"]


def test_a_program_without_attention_comes_back() -> None:
    program = captured(lambda x: x.softmax(-1), 2, 4)
    assert DecomposeAttention().apply(program, Context()) is program
