"""scaled_dot_product_attention(q, k, v, mask) ==> softmax(where(mask, q k^T * scale, -inf)) v, written out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from fxpress_ir import Edit, Program
from fxpress_ir.ops import arguments
from torch import fx

from ..contract import Close, Context, Pass, Promise

_aten = torch.ops.aten
LOWEST = torch.finfo(torch.float32).min
"""What a score that is not seen becomes where each query sees a key: its exponential is 0, as that of -inf is, and it is a number."""


@dataclass(frozen=True)
class DecomposeAttention(Pass):
    """Make the scores of attention values of the graph, so that they are measured and quantised like others.

    A query from which a boolean or -inf hides all keys gives 0, as the fused operator's kernels for CPUs do (torch 2.13, with a mask
    of either kind); so does the softmax that is written. A mask of finite numbers is a term of the scores: one that swallows them,
    as finfo.min does, leaves the mean of all values, a smaller one what there is without the mask.
    """

    name: ClassVar[str] = "decompose-attention"
    promise: ClassVar[Promise] = Close(1e-5, "fused kernels add products and exponentials in another order")
    after: ClassVar[tuple[str, ...]] = ("fold-positions",)

    def apply(self, program: Program, context: Context) -> Program:
        found = []
        for node in program.graph.nodes:
            if node.target is not _aten.scaled_dot_product_attention.default:
                continue
            reason = _refusal(node)
            if reason:
                context.refuse(node, reason, "it stays one operator, in floats")
            else:
                found.append(node)
        if not found:
            return program
        edit = program.edit()
        for node in map(edit.here, found):
            with edit.graph.inserting_before(node):
                written = _written_out(edit, node)
            edit.replace(node, written)
        return edit.finish()


def _refusal(node: fx.Node) -> str | None:
    named = arguments(node)
    query, key = named["query"].meta["val"], named["key"].meta["val"]
    if named["dropout_p"]:
        return f"it drops {named['dropout_p']} of its probabilities"
    if query.dtype != torch.float32:
        return f"it computes in {query.dtype}"
    if query.dim() not in (3, 4) or key.dim() != query.dim():
        return f"its operands have {query.dim()} and {key.dim()} dimensions"
    if named["enable_gqa"] and not (isinstance(query.shape[-3], int) and isinstance(key.shape[-3], int)):
        return "its numbers of heads are symbolic"
    return None


def _written_out(edit: Edit, node: fx.Node) -> fx.Node:
    named = arguments(node)
    query, key, value = named["query"], named["key"], named["value"]

    def call(target: Any, *args: Any) -> fx.Node:
        return edit.call(target, *args, like=node)

    if named["enable_gqa"]:
        share = query.meta["val"].shape[-3] // key.meta["val"].shape[-3]
        key, value = (_shared(edit, node, operand, share) for operand in (key, value))
    scale = named["scale"] if named["scale"] is not None else 1 / math.sqrt(query.meta["val"].shape[-1])
    scores = call(_aten.mul.Tensor, call(_aten.matmul.default, query, call(_aten.transpose.int, key, -2, -1)), scale)
    mask = named["attn_mask"]
    if named["is_causal"]:
        rows = query.meta["val"].dim() - 2
        sizes = [call(_aten.sym_size.int, operand, rows) for operand in (named["query"], named["key"])]
        seen = edit.call(_aten.ones.default, sizes, like=node)
        seen.kwargs = {"dtype": torch.bool}
        mask = call(_aten.tril.default, seen)
    alone = not named["is_causal"] and mask is not None and _may_hide_all(edit, mask)
    if mask is not None and (named["is_causal"] or mask.meta["val"].dtype == torch.bool):
        scores = call(_aten.where.ScalarOther, mask, scores, -math.inf if alone else LOWEST)
    elif mask is not None:
        scores = call(_aten.add.Tensor, scores, mask)
    softmax = _aten._safe_softmax.default if alone else _aten.softmax.int
    return call(_aten.matmul.default, call(softmax, scores, -1), value)


def _may_hide_all(edit: Edit, mask: fx.Node) -> bool:
    """A query may see no key: unless the mask is a constant that shows one to each."""
    if mask.op != "get_attr":
        return True
    values = edit.tensor(mask).detach()
    sees = values if values.dtype == torch.bool else values != -math.inf
    return not bool(sees.any(-1).all())


def _shared(edit: Edit, node: fx.Node, operand: fx.Node, share: int) -> fx.Node:
    """Each head of keys or values `share` times, one after the other."""
    if share == 1:
        return operand
    rank = operand.meta["val"].dim()
    apart = edit.call(_aten.unsqueeze.default, operand, rank - 2, like=node)
    sizes = [share if position == rank - 2 else -1 for position in range(rank + 1)]
    spread = edit.call(_aten.expand.default, apart, sizes, like=node)
    return edit.call(_aten.flatten.using_ints, spread, rank - 3, rank - 2, like=node)
