"""pruned program with batch norms ==> a word in the report, unless their statistics are measured anew later in the pipeline."""

from __future__ import annotations

import torch
from fxpress_ir import Program
from fxpress_ir.ops import arguments
from torch import fx

from ..contract import Context

ANEW = "reestimate-batch-norm"


def report_stale_norms(pruned: Program, whole: Program, context: Context) -> None:
    """Refuse the first batch norm that keeps the statistics of the whole program, where no later pass measures them."""
    if pruned is whole or context.later is None or ANEW in context.later:
        return
    stale = [node for node in pruned.graph.nodes if _keeps_statistics(node)]
    if stale:
        others = f", and {len(stale) - 1} more" if len(stale) > 1 else ""
        context.refuse(stale[0], f"it normalises by statistics of the whole program{others}", f"put {ANEW} behind, with calibration data")


def _keeps_statistics(node: fx.Node) -> bool:
    return node.target is torch.ops.aten.batch_norm.default and not arguments(node)["training"]
