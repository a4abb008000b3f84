"""average over a grid of regions ==> each region sliced, summed and requantised on its own, then joined.

The output's scale makes the multiplier of the most frequent divisor a dyadic exactly. Another's, M, is rounded to a whole
number of 2**-c: by at most 2**-(c + 1) / M of its value, which is 2**-15 while c is below its limit, 16 for 8-bit results.
"""

from __future__ import annotations

from typing import Protocol

import torch
from fxpress_ir import Edit
from torch import fx

from .recognized import Recognized
from .windows import spatial

_aten, _fxp = torch.ops.aten, torch.ops.fxp


class Divide(Protocol):
    """int32 sums and their divisor ==> the averages on the output's grid, named after the node and `name`."""

    def __call__(self, sums: fx.Node, divisor: int, name: str) -> fx.Node: ...


def average_by_region(edit: Edit, node: fx.Node, what: Recognized, x: fx.Node, divide: Divide) -> fx.Node:
    """The average of integers `x`, [batch, channels, height, width], that `what` says `node` to be."""
    size = spatial(what.operands[0])
    assert size is not None

    def part(value: fx.Node, dim: int, bounds: tuple[int, int]) -> fx.Node:
        whole = bounds == (0, size[dim - 2])
        return value if whole else edit.call(_aten.slice.Tensor, value, dim, *bounds, like=node, name=f"{node.name}_part")

    def joined(values: list[fx.Node], axis: int, name: str) -> fx.Node:
        return values[0] if len(values) == 1 else edit.call(_fxp.concat.default, values, axis, like=node, name=f"{node.name}_{name}")

    bands = []
    for row in what.regions:
        band, averages = part(x, 2, row[0].rows), []
        for region in row:
            window = (list(region.window.kernel), list(region.window.stride), list(region.window.padding))
            sums = edit.call(_fxp.sum_pool2d.default, part(band, 3, region.columns), *window, like=node, name=f"{node.name}_sum")
            averages.append(divide(sums, region.divisor, "region"))
        bands.append(joined(averages, 3, "band" if len(what.regions) > 1 else "out"))
    return joined(bands, 2, "out")
