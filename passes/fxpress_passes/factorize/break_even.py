"""layer, choices of ranks ==> those at which the layer alone is measured faster split than whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from fxpress_ir import Dimension, Program, capture
from fxpress_ir.analysis.sizes import concrete_size
from fxpress_ir.ops import arguments
from torch import Tensor, fx, nn

from ..contract import Context
from ..evidence.second_moments import LAYERS
from ..latency import Latency, TimeRatio, time_ratio
from ..low_rank.decompositions import Decomposition, Rung
from ..low_rank.split import split
from .layers import Layer


class BreakEven:
    """Measures layers one by one, alike ones once; of a weight that several layers share, the first.

    Args:
        latency: of programs of one layer and one input without dynamic dimensions; with ranks it is taken to grow.
        context: layers are measured at the sizes of its first calibration batch, but as few samples as may be, or at the least
            sizes where it has none.
    """

    def __init__(self, program: Program, latency: Latency, context: Context) -> None:
        batch = context.evidence.calibration.first(program) if context.calibrated is not None else None
        self._latency, self._sizes = latency, _sizes(program, batch)
        self._whole: dict[Any, Program] = {}
        self._known: dict[Any, TimeRatio] = {}

    def paying(self, layer: Layer, found: Decomposition, rungs: Sequence[Rung]) -> list[Rung]:
        """Of `rungs`, by falling parameters, those from the first that is faster on, by bisection."""
        low, high = 0, len(rungs)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self.ratio(layer, found, rungs[middle]).is_faster else (middle + 1, high)
        return list(rungs[low:])

    def ratio(self, layer: Layer, found: Decomposition, rung: Rung) -> TimeRatio:
        """The time of the layer split over that of the whole one."""
        node = layer.nodes[0]
        shape = tuple(concrete_size(size, self._sizes) for size in arguments(node)["input"].meta["val"].shape)
        alike = node.target, shape, layer.weight.shape, repr(_rest(node)), arguments(node)["bias"] is None
        key = alike, found.name, rung.ranks
        if key not in self._known:
            if alike not in self._whole:
                self._whole[alike] = capture(_Alone(node, layer.weight), (torch.zeros(shape, dtype=layer.weight.dtype),))
            whole = self._whole[alike]
            (place,) = (one for one in whole.graph.nodes if one.target in LAYERS)
            edit = whole.edit()
            split(edit, [edit.here(place)], found.pieces(rung.ranks), layer.weight.dtype)
            self._known[key] = time_ratio(edit.finish(), whole, self._latency)
        return self._known[key]


class _Alone(nn.Module):
    """One layer, its weight and its other arguments."""

    def __init__(self, node: fx.Node, weight: Tensor) -> None:
        super().__init__()
        self.target: Any = node.target
        self.weight, self.rest = nn.Parameter(weight, requires_grad=False), _rest(node)
        self.bias = None if arguments(node)["bias"] is None else nn.Parameter(weight.new_zeros(len(weight)), requires_grad=False)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.target(x, self.weight, self.bias, *self.rest)
        return result


def _rest(node: fx.Node) -> tuple[Any, ...]:
    named = arguments(node)
    return tuple(value for name, value in named.items() if name not in ("input", "weight", "bias"))


def _sizes(program: Program, batch: Sequence[Tensor] | None) -> dict[str, int]:
    """A number for each symbol of the program's shapes."""
    found: dict[str, int] = {}
    for place, (spec, node) in enumerate(zip(program.inputs, program.placeholders(), strict=True)):
        for dim, (wanted, size) in enumerate(zip(spec.shape, node.meta["val"].shape, strict=True)):
            if isinstance(wanted, Dimension):
                given = wanted.minimum if batch is None or dim == 0 else batch[place].shape[dim]
                found.setdefault(str(size.node.expr), max(given, 1))
    return found
