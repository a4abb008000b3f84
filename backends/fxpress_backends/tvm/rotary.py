"""rotary ==> a group over rows that reads heads where they lie; its tables are rows too, of size 1 where they serve all."""

from __future__ import annotations

from typing import Any

from fxpress_ir.ops import arguments
from torch import fx

from .draft import Draft
from .heads import split


def rotary(draft: Draft, node: fx.Node) -> None:
    named = arguments(node)
    heads, result = split(draft, named["x"]), draft.rows_like(draft.stored(node))
    settings: dict[str, Any] = {"shift": named["c"], "qmin": named["qmin"], "qmax": named["qmax"], "heads": heads.setting}
    operands = [heads.held, *(draft.in_rows(named[table]) for table in ("cosine", "sine"))]
    draft.emit("rotary", operands, result, draft.uncovered(heads.nodes, node), settings, owner=node)
