"""y = clamp(rne((x * C + rot(x) * S) / 2**c)): halves by Slice, turned by Neg and Concat, rounded like every requantisation."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from fxpress_ir.ops import Interval, arguments
from torch import fx

from . import rounding
from .walk import STORAGE, Walk, centred


def rotary(walk: Walk, node: fx.Node) -> ir.Value:
    named = arguments(node)
    x, axis = centred(walk, named["x"]), len(walk.shape(node)) - 1
    width = walk.shape(node)[-1]

    def part(start: int, end: int) -> ir.Value:
        return walk.op("Slice", x, *(walk.constant(np.array([value], np.int64)) for value in (start, end, axis)))

    turned = walk.op("Concat", walk.op("Neg", part(width // 2, width)), part(0, width // 2), axis=axis)
    terms = [walk.op("Mul", value, walk.value(named[table])) for value, table in ((x, "cosine"), (turned, "sine"))]
    kind, zero = STORAGE[named["dtype"]]
    one = np.ones(1, np.int64)
    plan = rounding.plan(_reach(walk, node), one * 0, one, named["c"], named["qmin"], named["qmax"], zero)
    return rounding.emit(walk, walk.op("Add", *terms), plan, 0, axis + 1, kind)


def _reach(walk: Walk, node: fx.Node) -> Interval:
    """|x C + rot(x) S| <= |x| (|C| + |S|)."""
    x, cosine, sine = (int(walk.intervals[arguments(node)[operand]].hull().magnitude) for operand in ("x", "cosine", "sine"))
    return Interval.of(-x * (cosine + sine), x * (cosine + sine))
