"""positions ==> CumSum of int64, Add, Max, Where."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from fxpress_ir.ops import arguments
from torch import fx

from .walk import Walk


def positions(walk: Walk, node: fx.Node) -> ir.Value:
    """Counts of true values up to each one, moved and bounded; a fixed number where the mask is false."""
    named = arguments(node)
    mask = walk.value(named["mask"])
    counts = walk.op("CumSum", walk.op("Cast", mask, to=ir.DataType.INT64), walk.constant(np.int64(-1)))
    moved = walk.op("Max", walk.op("Add", counts, walk.constant(np.int64(named["offset"]))), walk.constant(np.int64(named["least"])))
    return moved if named["hidden"] is None else walk.op("Where", mask, moved, walk.constant(np.int64(named["hidden"])))
