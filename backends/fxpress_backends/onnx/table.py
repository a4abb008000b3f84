"""y = table[q]: the stored byte of either type is the index, so one GatherElements over the flattened tensor is the lookup.

GatherElements is 4 times faster than Gather (0.25 ms against 1.1 ms for 400,000 elements, one thread). It divides its work
among threads by rows, so the tensor is laid out in as many rows as divide it, each with a copy of the table.
"""

from __future__ import annotations

from math import gcd, prod

import numpy as np
import onnx_ir as ir
from fxpress_ir.ops import arguments
from torch import fx

from .shapes import reshape
from .walk import Walk, zero_point

_MOST_ROWS = 16
"""4 KiB of copies; more rows than threads gain nothing."""


def lut(walk: Walk, node: fx.Node) -> ir.Value:
    named = arguments(node)
    x = named["x"]
    table = (walk.array(named["table"]).astype(np.int16) + zero_point(node)).astype(np.uint8)
    channels, entries = table.shape
    index = walk.op("Cast", walk.value(x), to=ir.DataType.INT32)
    if channels > 1:
        rank = len(walk.shape(x))
        first = np.arange(channels, dtype=np.int32) * entries
        along = [-1 if d == named["axis"] % rank else 1 for d in range(rank)]
        index = walk.op("Add", index, walk.constant(first.reshape(along)))
    rows = 1 if channels > 1 else gcd(prod(s for s in walk.shape(x) if isinstance(s, int)), _MOST_ROWS)
    tables = walk.constant(np.repeat(table.reshape(1, -1), rows, 0), str(named["table"].target))
    flat = walk.op("Reshape", index, walk.constant(np.array([rows, -1], np.int64)))
    return reshape(walk, walk.op("GatherElements", tables, flat, axis=1), walk.shape(node))
