"""Which masks attention does without, and how its call looks then."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from float_programs import refusals
from fxpress_ir import Program, capture
from fxpress_ir.ops import arguments
from fxpress_passes import Context
from fxpress_passes.normalize.masks import Unmasked, drop_mask, needless_masks
from lengths import named
from torch import Tensor, fx, nn
from torch.nn.functional import scaled_dot_product_attention

_aten = torch.ops.aten
ATTENTION = _aten.scaled_dot_product_attention.default


class Masked(nn.Module):
    """Attention of 2 batches, `heads` heads, 4 queries and `keys` keys with a mask that is a tensor of the program."""

    def __init__(self, mask: Tensor, keys: int = 4, **options: Any) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.keys, self.options = keys, options

    def forward(self, x: Tensor) -> Tensor:
        keys = x[..., : self.keys, :]
        result: Tensor = scaled_dot_product_attention(x[..., :4, :], keys, keys * 2, attn_mask=self.mask, **self.options)
        return result


def program(mask: Tensor, keys: int = 4, heads: int = 2, **options: Any) -> Program:
    return capture(Masked(mask, keys, **options), (torch.zeros(2, heads, 6, 8),))


def found(program: Program, context: Context | None = None) -> list[bool]:
    """For each call without need of a mask, whether it is causal."""

    def table_of(mask: fx.Node) -> Tensor | None:
        return program.tensors[str(mask.target)] if mask.op == "get_attr" else None

    return [call.causal for call in needless_masks(program, table_of, context or Context())]


LOWER, ALL = torch.ones(4, 4, dtype=torch.bool).tril(), torch.ones(4, 4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("mask", "options", "wanted"),
    [
        (ALL, {}, [False]),
        (ALL[:1], {}, [False]),
        (torch.ones(2, 1, 4, 4, dtype=torch.bool), {}, [False]),
        (torch.ones(4, 6, dtype=torch.bool), {"keys": 6}, [False]),
        (LOWER, {}, [True]),
        (LOWER.expand(2, 2, 4, 4), {}, [True]),
        (LOWER, {"scale": 0.3}, [True]),
        (LOWER.float(), {}, []),
        (LOWER.T, {}, []),
        (LOWER | LOWER.roll(1, 1), {}, []),
        (torch.ones(4, 6, dtype=torch.bool).tril(), {"keys": 6}, []),
        (torch.stack([LOWER, LOWER.T])[None], {}, []),
    ],
    ids=["all", "a row", "batch", "more keys", "lower", "each head", "scale", "floats", "upper", "one more", "rectangle", "one head"],
)
def test_masks(mask: Tensor, options: dict[str, Any], wanted: list[bool]) -> None:
    assert found(program(mask, **options)) == wanted


def test_a_mask_without_table_stays() -> None:
    assert needless_masks(program(ALL), lambda mask: None, Context()) == []


def test_attention_without_mask_is_left_alone() -> None:
    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return scaled_dot_product_attention(x, x, x, is_causal=True)

    assert found(capture(Plain(), (torch.zeros(2, 2, 6, 8),))) == []


def test_a_mask_of_three_dimensions_is_refused_for_operands_of_four() -> None:
    context = Context()
    assert found(program(LOWER[None]), context) == []
    assert [refused.partition(": ")[2] for refused in refusals(context)] == [
        "without its mask of 3 dimensions another kernel would run; give the mask 4 dimensions"
    ]


@pytest.mark.parametrize("causal", [False, True])
def test_the_call_keeps_its_other_arguments_and_its_bits(causal: bool) -> None:
    before = program(LOWER if causal else ALL, heads=4, scale=0.25)
    edit = before.edit()
    drop_mask(edit.here(named(before, ATTENTION)), causal)
    after = edit.finish()
    call = arguments(named(after, ATTENTION))
    assert (call["attn_mask"], call["is_causal"], call["scale"], call["enable_gqa"]) == (None, causal, 0.25, False)
    assert not after.tensors
    x = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(before.run(x)[0], after.run(x)[0])


@pytest.mark.parametrize("length", [1, 2, 31, 64, 257])
@pytest.mark.parametrize("kind", ["all", "causal"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_kernels_give_the_same_bits_without_the_mask(length: int, kind: str, dtype: torch.dtype) -> None:
    """The promise of fold-positions rests on this."""
    generator = torch.Generator().manual_seed(length)
    q, k, v = (torch.randn(2, length, 4, 16, generator=generator).to(dtype).transpose(1, 2) for _ in range(3))
    mask = torch.ones(length, length, dtype=torch.bool)
    mask = mask.tril() if kind == "causal" else mask
    masked = scaled_dot_product_attention(q, k, v, attn_mask=mask[None, None].expand(2, 1, -1, -1))
    assert torch.equal(masked, scaled_dot_product_attention(q, k, v, is_causal=kind == "causal"))


def test_what_is_dropped_is_data() -> None:
    (call,) = needless_masks(program(ALL), lambda mask: ALL, Context())
    assert call == Unmasked(call.node, False)
