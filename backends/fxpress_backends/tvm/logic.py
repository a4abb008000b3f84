"""comparisons with numbers, and, or, not ==> groups whose kernels read integers and write bytes that are 0 or 1; counts of these."""

from __future__ import annotations

from typing import Any

import torch
from fxpress_ir.ops import COMPARISONS, arguments
from torch import fx

from .draft import Draft

_aten = torch.ops.aten
_KERNELS: dict[Any, str] = {
    _aten.logical_and.default: "logical_and",
    _aten.logical_or.default: "logical_or",
    _aten.logical_not.default: "logical_not",
}


def positions(draft: Draft, node: fx.Node) -> None:
    """Counts of true values along rows."""
    named = arguments(node)
    settings = {name: named[name] for name in ("offset", "least", "hidden")}
    draft.emit("positions", [draft.in_rows(named["mask"])], draft.rows_like(draft.stored(node)), [node], settings)


def logic(draft: Draft, node: fx.Node) -> None:
    """An operator that makes booleans."""
    named, result = arguments(node), draft.stored(node)
    if node.target in COMPARISONS:
        source = draft.buffer(named["self"])
        settings = {"relation": node.target._opname, "number": named["other"] + source.zero}
        draft.emit("compare", [source], result, [node], settings)
        return
    operands = [draft.buffer(named[operand]) for operand in ("self", "other") if operand in named]
    draft.emit(_KERNELS[node.target], operands, result, [node])
