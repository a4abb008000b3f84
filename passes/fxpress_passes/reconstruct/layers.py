"""simulated program ==> its layers with quantised weights, and the grids before and after each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from fxpress_ir import Program
from fxpress_ir.analysis.cones import CLAMPS
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from ..contract import Context

_aten, _fxp = torch.ops.aten, torch.ops.fxp
OPERATORS = {_aten.conv2d.default: 1, _aten.conv2d.padding: 1, _aten.conv_transpose2d.input: 1, _aten.linear.default: -1}
"""Layers and the axis of their outputs' channels."""
SHORT = 255
"""Grids whose codes go beyond it have 16 bits."""


@dataclass(frozen=True)
class Grid:
    """Of a quantised activation: scale * q for qmin <= q <= qmax."""

    scale: float
    qmin: int
    qmax: int

    @property
    def reach(self) -> int:
        """The largest magnitude of a code."""
        return max(self.qmax, -self.qmin)

    @property
    def is_short(self) -> bool:
        """It has 16 bits."""
        return self.qmax > SHORT


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer whose weight is a quantised constant and whose bias is a constant or missing.

    Attributes:
        node, quantizer: the layer, and what quantises its weight.
        weight, scale, bias: names of tensors.
        axis: of the weight's scales.
        most: integers are -most to most.
        source, target: the grid that it reads from, and that its result is rounded to; None where several nodes share the weight,
            or no such grid is found: its scales are not free then.
        sharing: the later layers that have the same weight on the same scales.
    """

    node: fx.Node
    quantizer: fx.Node
    weight: str
    scale: str
    bias: str | None
    axis: int
    most: int
    source: Grid | None
    target: Grid | None
    sharing: tuple[Layer, ...] = ()

    @property
    def name(self) -> str:
        return self.node.name

    def readers(self) -> Iterator[Layer]:
        """Itself, and those that share its weight."""
        yield self
        yield from self.sharing


def layers_of(program: Program, context: Context) -> list[Layer]:
    """In the graph's order; a weight that several share on equal scales counts once, with the first of them."""
    found: dict[tuple[str, bytes], Layer] = {}
    for node in program.graph.nodes:
        layer = _layer(node, context)
        if layer is None:
            continue
        key = layer.weight, program.tensors[layer.scale].numpy().tobytes()
        if key in found:
            first = found[key]
            found[key] = replace(first, target=None, sharing=(*first.sharing, layer))
        else:
            found[key] = layer
    return list(found.values())


def _layer(node: fx.Node, context: Context) -> Layer | None:
    if node.target not in OPERATORS:
        return None
    named = arguments(node)
    quantizer, bias = named["weight"], named["bias"]
    if quantizer.target is not _fxp.fake_quantize_channels.default:
        return None
    if bias is not None and bias.op != "get_attr":
        context.refuse(node, "its bias is computed", "run fold-constants first")
        return None
    behind = arguments(quantizer)
    tensors = str(behind["x"].target), str(behind["scale"].target), None if bias is None else str(bias.target)
    source = source_of(node)
    return Layer(node, quantizer, *tensors, behind["axis"], behind["qmax"], None if source is None else _grid(source), _target(node))


def source_of(node: fx.Node) -> fx.Node | None:
    """The quantiser of what a layer reads, behind the nodes that only move, pad or take maxima of its values."""
    value: fx.Node = arguments(node)["input"]
    while value.target is not _fxp.fake_quantize.default:
        tensors = [
            used for used in value.all_input_nodes if isinstance(used.meta.get("val"), (Tensor, tuple, list)) and used.op != "get_attr"
        ]
        if len(tensors) != 1:
            return None
        value = tensors[0]
    return value


def _target(node: fx.Node) -> Grid | None:
    """The quantiser of a layer's result, behind the clamp that bounds it."""
    while len(node.users) == 1:
        (node,) = node.users
        if node.target not in CLAMPS:
            return _grid(node) if node.target is _fxp.fake_quantize.default else None
    return None


def _grid(quantizer: fx.Node) -> Grid:
    named = arguments(quantizer)
    return Grid(named["scale"], named["qmin"], named["qmax"])
