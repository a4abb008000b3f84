"""graph ==> the layers that share a tensor, and with it a width: one weight, one input, or results that are joined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx

from .aliases import shares_memory
from .cones import ELEMENTWISE, operands

_LAYERS = frozenset({"linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})
_KEEPS = frozenset(
    {
        *("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
        *("constant_pad_nd", "pad", "clone", "contiguous", "index_select", "index", "gather", "flip", "roll", "repeat"),
        *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"),
    }
)
"""Operators that give values of their first argument."""
_JOINS = frozenset({"add", "sub", "cat", "concat", "concatenate", "stack"})


@dataclass(frozen=True)
class PrecisionTie:
    """Layers that share a tensor.

    Attributes:
        kind: ``weight``, ``input`` or ``join``.
        tensor: the weight's name, or the node whose value is read or joined.
        layers: names of their nodes, at least two, in order.
    """

    kind: str
    tensor: str
    layers: tuple[str, ...]


def precision_ties(graph: fx.Graph) -> tuple[PrecisionTie, ...]:
    """The ties of linear layers and convolutions, weights first, then inputs, then joins; each in the graph's order.

    What a tie asks depends on the arithmetic:

    - Layers with one ``weight`` have the same bits for it, whatever the arithmetic; its bytes are there once.
    - Layers with one ``input`` read one tensor of one width: those are the ties of HAWQ-V3, where a kernel's weights and inputs
      have the same bits, between a stage's first convolution and its shortcut. Dyadic programs of ours choose the bits of
      each weight freely; a tensor of 16 bits is rounded once more for readers of 8.
    - Results of layers that are added or concatenated meet in one tensor. Each has a dyadic multiplier of its own to its scale,
      so their weights may differ in bits; the tensor's width is one. Sums and concatenations of such are one tie, as
      a residual stream is one.

    Views, pads, maxima and selections of a value are that value; a layer's result is still its own behind elementwise
    operators and batch normalisations.
    """
    layers = [node for node in graph.nodes if _name(node) in _LAYERS]
    weights = _groups((weight, layer) for layer in layers if (weight := _weight(layer)) is not None)
    inputs = _groups((_value(layer.args[0]), layer) for layer in layers)
    found = [PrecisionTie("weight", str(weight), _names(group)) for weight, group in weights.items() if len(group) > 1]
    found += [PrecisionTie("input", str(value), _names(group)) for value, group in inputs.items() if len(group) > 1]
    return (*found, *_joined(graph))


def _joined(graph: fx.Graph) -> Iterator[PrecisionTie]:
    """Ties of joins; one that joins the results of others is one with them, and has the last one's name."""
    later: dict[fx.Node, fx.Node] = {}
    reached: dict[fx.Node, set[fx.Node]] = {}
    order = {node: place for place, node in enumerate(graph.nodes)}
    for join in filter(_is_join, graph.nodes):
        reached[join] = set()
        for source in map(_source, operands(join)):
            while source in later:
                source = later[source]
            if source in reached and source is not join:
                reached[join] |= reached.pop(source)
                later[source] = join
            elif _name(source) in _LAYERS:
                reached[join].add(source)
    for join, layers in reached.items():
        if len(layers) > 1:
            yield PrecisionTie("join", join.name, _names(sorted(layers, key=order.__getitem__)))


def _is_join(node: fx.Node) -> bool:
    return _name(node) in _JOINS and len(operands(node)) > 1


def _value(node: Any) -> Any:
    """The value that a node gives values of."""
    while isinstance(node, fx.Node) and (shares_memory(node) or _name(node) in _KEEPS):
        node = node.args[0]
    return node


def _source(node: fx.Node) -> fx.Node:
    """The layer, the join or another value that a node is an elementwise function of."""
    while True:
        before: fx.Node = _value(node)
        if before.target in ELEMENTWISE and not _is_join(before) and len(operands(before)) == 1:
            (before,) = operands(before)
        if before is node:
            return node
        node = before


def _weight(layer: fx.Node) -> Any:
    """The name of a layer's weight, None where it is computed."""
    weight = _value(layer.args[1])
    return weight.target if weight.op == "get_attr" else None


def _groups(pairs: Iterable[tuple[Any, fx.Node]]) -> dict[Any, list[fx.Node]]:
    found: dict[Any, list[fx.Node]] = {}
    for key, layer in pairs:
        found.setdefault(key, []).append(layer)
    return found


def _names(layers: Iterable[fx.Node]) -> tuple[str, ...]:
    return tuple(layer.name for layer in layers)


def _name(node: Any) -> str:
    return str(getattr(getattr(node, "target", None), "_opname", ""))
