"""addmm(b, x, W), x @ W with a constant W ==> linear(x, W^T, b)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from fxpress_ir import Program
from fxpress_ir.ops import arguments
from torch import fx

from ..contract import Close, Context, Pass, Promise

_aten = torch.ops.aten
_PRODUCTS: dict[Any, tuple[str, str]] = {
    _aten.addmm.default: ("mat1", "mat2"),
    _aten.mm.default: ("self", "mat2"),
    _aten.matmul.default: ("self", "other"),
}


@dataclass(frozen=True)
class ComposeLinear(Pass):
    """Bring products with constant matrices into the one form that later passes know; the weight is stored transposed."""

    name: ClassVar[str] = "compose-linear"
    promise: ClassVar[Promise] = Close(1e-5, "kernels for transposed weights add products in another order")
    after: ClassVar[tuple[str, ...]] = ("fold-constants",)

    def apply(self, program: Program, context: Context) -> Program:
        found = []
        for node in program.graph.nodes:
            if node.target not in _PRODUCTS:
                continue
            reason = _refusal(node)
            if reason is None:
                found.append(node)
            elif reason:
                context.refuse(node, reason, "it stays a product")
        if not found:
            return program
        edit = program.edit()
        for node in map(edit.here, found):
            named, (left, right) = arguments(node), _PRODUCTS[node.target]
            with edit.graph.inserting_before(node):
                weight = edit.add_tensor(f"{named[right].target}.transposed", edit.tensor(named[right]).T.contiguous())
                bias = named["self"] if node.target is _aten.addmm.default else None
                composed = edit.call(_aten.linear.default, named[left], weight, bias, like=node)
            edit.replace(node, composed)
        return edit.finish()


def _refusal(node: fx.Node) -> str | None:
    """Why a product is no linear layer; nothing where it is one, an empty reason where it multiplies activations."""
    named, (left, right) = arguments(node), _PRODUCTS[node.target]
    if named[right].op != "get_attr" or named[left].op == "get_attr" or named[right].meta["val"].dim() != 2:
        return ""
    if node.target is not _aten.addmm.default:
        return None
    if (named["alpha"], named["beta"]) != (1, 1):
        return f"it scales its product by {named['alpha']} and its bias by {named['beta']}"
    bias = named["self"]
    if bias.op != "get_attr" or list(bias.meta["val"].shape) != [named[right].meta["val"].shape[1]]:
        return "its bias is no constant of one value a column"
    return None
