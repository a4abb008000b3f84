"""attention(q, k, v, True) ==> attention(q, k, v); attention(q, k, v, True up to the diagonal) ==> attention(q, k, v, is_causal).

The bits stay: on the CPU the fused kernel adds 0 to the scores that a mask lets through and gives 0 for the others, in the
order in which it works without a mask (torch 2.13: no bit moved in 35,000 comparisons, 1 to 1024 keys, bfloat16 to float64,
ranks 3 and 4, shared heads, strided operands, 1 and 2 threads). It does not take masks of 3 dimensions for operands of 4: there
the results differed in 1080 of 1296.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from fxpress_ir import Program
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from ..contract import Context

_aten = torch.ops.aten


@dataclass(frozen=True)
class Unmasked:
    """A call of attention that needs no mask; `causal`: because it is causal."""

    node: fx.Node
    causal: bool


def needless_masks(program: Program, table_of: Callable[[fx.Node], Tensor | None], context: Context) -> list[Unmasked]:
    """The calls whose mask, as `table_of` gives it, hides nothing, or what is_causal hides."""
    found = []
    for node in program.graph.nodes:
        if node.target is not _aten.scaled_dot_product_attention.default:
            continue
        named = arguments(node)
        mask = named["attn_mask"]
        table = table_of(mask) if isinstance(mask, fx.Node) else None
        if table is None or table.dtype != torch.bool or named["is_causal"]:
            continue
        causal = not bool(table.all())
        if causal and not _lower_triangle(table, named):
            continue
        if mask.meta["val"].dim() == 3 and named["query"].meta["val"].dim() == 4:
            context.refuse(node, "without its mask of 3 dimensions another kernel would run", "give the mask 4 dimensions")
            continue
        found.append(Unmasked(node, causal))
    return found


def drop_mask(node: fx.Node, causal: bool) -> None:
    """Rewrite a call of attention in place."""
    named = arguments(node)
    node.args = (named["query"], named["key"], named["value"], None, named["dropout_p"], causal)
    node.kwargs = {name: value for name, value in node.kwargs.items() if name in ("scale", "enable_gqa")}


def _lower_triangle(table: Tensor, named: Mapping[str, Any]) -> bool:
    """As many queries as keys, at every size, and each sees the keys up to its own."""
    sizes = [str(named[operand].meta["val"].shape[-2]) for operand in ("query", "key")]
    masked = [str(size) for size in named["attn_mask"].meta["val"].shape[-2:]]
    if sizes[0] != sizes[1] or masked != sizes or table.shape[-2] != table.shape[-1]:
        return False
    return torch.equal(table, torch.ones_like(table).tril())
