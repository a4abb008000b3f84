"""graph ==> which elementwise nodes are together one function of one value, and the axis along which its constants differ."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import fx

from ..ops import arguments

_aten = torch.ops.aten

CLAMPS = frozenset({_aten.relu.default, _aten.relu6.default, _aten.hardtanh.default, _aten.clamp.default, _aten.clamp_min.default})
"""Operators that are bounds alone, so that an accumulator's own clamp can do their work."""

ELEMENTWISE = CLAMPS | {
    *(_aten.sigmoid.default, _aten.tanh.default, _aten.gelu.default, _aten.silu.default, _aten.mish.default, _aten.softplus.default),
    *(_aten.hardswish.default, _aten.hardsigmoid.default, _aten.leaky_relu.default, _aten.elu.default, _aten.prelu.default),
    *(_aten.selu.default, _aten.celu.default, _aten.log_sigmoid.default, _aten.hardshrink.default, _aten.softshrink.default),
    *(_aten.threshold.default, _aten.sin.default, _aten.cos.default, _aten.atan.default, _aten.sign.default, _aten.expm1.default),
    *(_aten.clamp_max.default, _aten.erf.default, _aten.exp.default, _aten.log.default, _aten.log1p.default, _aten.sqrt.default),
    *(_aten.rsqrt.default, _aten.abs.default, _aten.neg.default, _aten.reciprocal.default, _aten.square.default),
    *(_aten.pow.Tensor_Scalar, _aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor, _aten.rsub.Scalar),
    *(_aten.add.Scalar, _aten.sub.Scalar, _aten.mul.Scalar, _aten.div.Scalar, _aten.maximum.default, _aten.minimum.default),
    _aten.batch_norm.default,
}
"""Operators that treat every element alike, or every channel alike where they read constants."""


def operands(node: fx.Node) -> list[fx.Node]:
    """The values that an elementwise node computes on; constants are not among them."""
    return [used for used in node.all_input_nodes if used.op != "get_attr"]


def constant_axis(node: fx.Node) -> int | str | None:
    """The axis along which an elementwise node's constants differ, None for none, or why they cannot be tabulated."""
    if node.target is _aten.batch_norm.default:
        return "it normalises by the batch's own statistics" if arguments(node)["training"] else 1
    rank, axes = node.meta["val"].dim(), set()
    for used in node.all_input_nodes:
        if used.op != "get_attr":
            continue
        shape = used.meta["val"].shape
        offset = 1 if node.target is _aten.prelu.default and rank > 1 else rank - len(shape)
        axes |= {offset + position for position, size in enumerate(shape) if size != 1}
    if len(axes) > 1 or 0 in axes:
        return "its constant differs along more than the channels"
    return next(iter(axes), None)


class Cones:
    """Which elementwise nodes collapse into a table over one value.

    A node's root is the value that it is a function of. A node is inside a cone when everything that reads it is a function
    of the same root; the others (tips) become values, with a table each.
    """

    def __init__(self, graph: fx.Graph, apart: Collection[fx.Node]) -> None:
        """`apart` are values, not functions: clamps that an accumulator takes over, and what cannot be tabulated."""
        nodes = [node for node in graph.nodes if node.target in ELEMENTWISE and node not in apart]
        self.tips: set[fx.Node] = set()
        while True:
            self._roots: dict[fx.Node, fx.Node] = {}
            for node in nodes:
                found = {self.value(operand) for operand in operands(node)}
                if len(found) == 1:
                    self._roots[node] = found.pop()
            tips = {node for node in self._roots if any(self._roots.get(user) is not self._roots[node] for user in node.users)}
            if tips <= self.tips:
                self.tips &= tips  # some were tips only before others were
                return
            self.tips |= tips

    def root(self, node: fx.Node) -> fx.Node | None:
        """The one value that `node` is an elementwise function of."""
        return self._roots.get(node)

    def value(self, node: fx.Node) -> fx.Node:
        """The value that stands for `node` where it is read: its root inside a cone, itself elsewhere."""
        return self._roots[node] if node in self._roots and node not in self.tips else node

    def inside(self, tip: fx.Node) -> list[fx.Node]:
        """The nodes between a tip's root and the tip, in order, the tip last."""
        found: dict[fx.Node, None] = {}

        def visit(node: fx.Node) -> None:
            if node is not self._roots[tip] and node not in found:
                for operand in operands(node):
                    visit(operand)
                found[node] = None

        visit(tip)
        return list(found)
