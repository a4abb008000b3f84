"""Values that change places in storage: nearest rows and columns by Resize and Pad, zeros between pixels by Resize and Where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from fxpress_ir.ops import arguments
from torch import fx

from .shapes import reshape
from .walk import Emit, Walk

_fxp = torch.ops.fxp
_ROWS, _COLUMNS = 2, 3
_NEAREST: dict[str, Any] = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor", "mode": "nearest"}


@dataclass(frozen=True)
class Repeat:
    """Indices 0 .. n-1, each `factor` times, the first and the last `before` and `after` times more."""

    factor: int
    before: int
    after: int


_ONCE = Repeat(1, 0, 0)


def repeat(indices: Sequence[int], size: int) -> Repeat | None:
    """`indices` into a dimension of `size` elements as a Repeat, where they are one."""
    if list(indices) != sorted(indices):
        return None
    counts = np.bincount(indices, minlength=size)
    factor = int(counts[1]) if size > 2 else len(indices) // size
    before, after = int(counts[0]) - factor, int(counts[-1]) - factor
    if factor < 1 or before < 0 or after < 0 or bool((counts[1:-1] != factor).any()):
        return None
    return Repeat(factor, before, after)


def select2d(walk: Walk, node: fx.Node) -> ir.Value:
    """Resize by whole factors and Pad with the edge; indices of another kind are gathered, in the order that moves less."""
    named = arguments(node)
    x, indices = named["x"], (named["rows"], named["columns"])
    sizes = walk.shape(x)[_ROWS:]
    static = all(isinstance(size, int) for size in sizes)
    repeats = [repeat(wanted, size) if static else None for wanted, size in zip(indices, sizes, strict=True)]
    value = _repeated(walk, node, x, repeats) if any(found not in (None, _ONCE) for found in repeats) else walk.value(x)
    grows = static and len(indices[0]) > sizes[0]
    for axis in (_COLUMNS, _ROWS) if grows else (_ROWS, _COLUMNS):
        if repeats[axis - _ROWS] is None:
            value = walk.op("Gather", value, walk.constant(np.array(indices[axis - _ROWS], np.int64)), axis=axis)
    return value


def _repeated(walk: Walk, node: fx.Node, x: fx.Node, repeats: Sequence[Repeat | None]) -> ir.Value:
    """Both axes at once; an axis without Repeat stays as it is."""
    done = [found or _ONCE for found in repeats]
    images, sizes = _nearest(walk, x, [found.factor for found in done])
    before, after = [found.before for found in done], [found.after for found in done]
    if any(before) or any(after):
        images = walk.op("Pad", images, walk.constant(np.array([0, 0, *before, 0, 0, *after], np.int64)), mode="edge")
    sizes = [size + first + last for size, first, last in zip(sizes, before, after, strict=True)]
    return reshape(walk, images, [*walk.shape(x)[:_ROWS], *sizes])


def _nearest(walk: Walk, x: fx.Node, factors: Sequence[int]) -> tuple[ir.Value, list[int]]:
    """Nearest upsampling of x as images of one channel [-1, 1, height, width], and their height and width.

    ONNX Runtime doubles both sides some forty times faster than it does anything else, so doubles go first. The reshape
    keeps its layout optimiser away, which moves the channels of a Resize without moving its axes.
    """
    left, sizes = list(factors), list(walk.shape(x)[_ROWS:])
    images = walk.op("Reshape", walk.value(x), walk.constant(np.array([-1, 1, *sizes], np.int64)))
    while any(factor > 1 for factor in left):
        step = list(left) if any(factor % 2 for factor in left) else [2, 2]
        left, sizes = [f // done for f, done in zip(left, step, strict=True)], [s * done for s, done in zip(sizes, step, strict=True)]
        wanted = walk.constant(np.array(sizes, np.int64))
        images = walk.op("Resize", images, None, None, wanted, axes=[_ROWS, _COLUMNS], **_NEAREST)
    return images, sizes


def insert_zeros(walk: Walk, node: fx.Node) -> ir.Value:
    """Every pixel is repeated, then all but the first of each repetition become the zero point."""
    named = arguments(node)
    stride, x = list(named["stride"]), named["x"]
    if stride == [1, 1]:
        return walk.value(x)
    images, sizes = _nearest(walk, x, stride)
    rows, columns = (np.arange(size) % step == 0 for size, step in zip(sizes, stride, strict=True))
    kept = walk.op("And", walk.constant(rows[:, None]), walk.constant(columns))
    return reshape(walk, walk.op("Where", kept, images, walk.number(x, 0)), walk.shape(node))


def pad2d(walk: Walk, node: fx.Node) -> ir.Value:
    named = arguments(node)
    top, left, bottom, right = named["padding"]
    pads = walk.constant(np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
    return walk.op("Pad", walk.value(named["x"]), pads, walk.number(named["x"], named["value"]))


def max_of_slices(walk: Walk, node: fx.Node) -> ir.Value:
    """The maximum over windows of a type that MaxPool lacks: of shifted and strided slices, along rows, then along columns."""
    named = arguments(node)
    value, (top, left, bottom, right) = walk.value(named["x"]), named["padding"]
    if any(named["padding"]):
        pads = walk.constant(np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
        value = walk.op("Pad", value, pads, walk.number(named["x"], np.iinfo(np.int16).min))
    for axis, kernel, stride, dilation in zip((_ROWS, _COLUMNS), named["kernel"], named["stride"], named["dilation"], strict=True):
        reach = dilation * (kernel - 1)
        ends = [(tap * dilation, tap * dilation - reach or np.iinfo(np.int64).max) for tap in range(kernel)]
        taps = [walk.op("Slice", value, *(walk.constant(np.array([v])) for v in (first, end, axis, stride))) for first, end in ends]
        value = walk.op("Max", *taps)
    return value


def concat(walk: Walk, node: fx.Node) -> ir.Value:
    """All operands have one type, hence one zero point."""
    named = arguments(node)
    return walk.op("Concat", *map(walk.value, named["xs"]), axis=named["axis"] % len(walk.shape(node)))


MOVEMENT_EMITTERS: dict[Any, Emit] = {
    _fxp.select2d.default: select2d,
    _fxp.insert_zeros.default: insert_zeros,
    _fxp.pad2d.default: pad2d,
    _fxp.concat.default: concat,
}
