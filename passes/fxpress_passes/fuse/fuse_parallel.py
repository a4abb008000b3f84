"""linear(x, A, a), linear(x, B, b) ==> slices of linear(x, [A; B], [a; b]); convolutions alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from fxpress_ir import Program
from torch import fx

from ..contract import GIVEN, Close, Context, Pass, Promise
from ..latency import Latency
from .branches import channels_axis, joinable, joined, kind, siblings, take_apart
from .faster import fastest

_aten = torch.ops.aten
_LAYERS = frozenset(
    {
        *(_aten.linear.default, _aten.conv1d.default, _aten.conv2d.default, _aten.conv3d.default),
        *(_aten.conv1d.padding, _aten.conv2d.padding, _aten.conv3d.padding),
    }
)


@dataclass(frozen=True)
class FuseParallel(Pass):
    """Compute layers that read one value at once: queries, keys and values; gate and up; branches of one kernel size.

    One product of many outputs keeps a processor busier than several of few. Before quantisation this gives all of them one scale:
    ``fuse-parallel-integer``, after it, leaves each its own.

    Options:
        latency: measures whether the fused program is faster, by kinds of layers; a kind that is not stays apart. None for the
            pipeline's; where that has none, all are fused.
    """

    name: ClassVar[str] = "fuse-parallel"
    promise: ClassVar[Promise] = Close(1e-5, "kernels for more outputs add products in another order")
    after: ClassVar[tuple[str, ...]] = ("fold-constants", "compose-linear", "fold-batch-norm")
    latency: Latency | None = field(default=None, metadata={GIVEN: True})

    def apply(self, program: Program, context: Context) -> Program:
        kinds: dict[str, list[list[fx.Node]]] = defaultdict(list)
        for layers in siblings(program.graph, _LAYERS):
            left = joinable(layers, context)
            if len(left) > 1:
                kinds[kind(left)].append(left)
        latency = self.latency if self.latency is not None else context.latency
        return fastest(program, list(kinds.items()), _fused, latency, context) if kinds else program


def _fused(program: Program, groups: Sequence[Sequence[fx.Node]]) -> Program:
    edit = program.edit()
    for group in groups:
        layers = [edit.here(layer) for layer in group]
        take_apart(edit, joined(edit, layers), layers, layers, channels_axis(layers[0]))
    return edit.finish()
