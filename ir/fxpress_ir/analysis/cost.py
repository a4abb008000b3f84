"""graph ==> multiply-accumulates, parameters, bytes, peak memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor, fx

from .aliases import shares_memory
from .liveness import peak
from .sizes import concrete_size

_CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}
_TRANSPOSED = {"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
_ATTENTIONS = {"scaled_dot_product_attention", "attention"}
_PRODUCTS = {"linear": 0, "matmul": 0, "bmm": 0, "mm": 0, "addmm": 1, "baddbmm": 1}
"""Matrix products, with the position of the operand whose last dimension is summed over."""


@dataclass(frozen=True)
class Cost:
    """What running a program once takes.

    Attributes:
        macs: multiply-accumulates of convolutions, linears and matrix products.
        parameters: elements of all tensors.
        weight_bytes: bytes of all tensors.
        activation_bytes: bytes of all values computed, each counted once; views are free.
        peak_memory: most bytes of activations live at once, inputs included, weights not.
    """

    macs: int
    parameters: int
    weight_bytes: int
    activation_bytes: int
    peak_memory: int


def cost(graph: fx.Graph, tensors: Mapping[str, Tensor], symbols: Mapping[str, int]) -> Cost:
    """The cost with every symbolic size at the value in `symbols`."""

    def size(node: fx.Node) -> int:
        value: Any = node.meta.get("val")
        if node.op not in ("placeholder", "call_function") or not isinstance(value, Tensor) or shares_memory(node):
            return 0
        return prod(_shape(node, symbols)) * value.element_size()

    sizes = {node: size(node) for node in graph.nodes}
    return Cost(
        macs=sum(macs(node, symbols) for node in graph.nodes),
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        weight_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
        activation_bytes=sum(taken for node, taken in sizes.items() if node.op == "call_function"),
        peak_memory=peak(graph, sizes.__getitem__),
    )


def macs(node: fx.Node, symbols: Mapping[str, int]) -> int:
    """Multiply-accumulates of one node; 0 for what is no convolution, linear, matrix product or attention."""

    def shape(operand: Any) -> list[int]:
        return _shape(operand, symbols)

    operator = getattr(node.target, "_opname", "")
    if operator in _CONVOLUTIONS:
        return prod(shape(node)) * prod(shape(node.args[1])[1:])
    if operator in _TRANSPOSED:
        return prod(shape(node.args[0])) * prod(shape(node.args[1])[1:])
    if operator in _PRODUCTS:
        return prod(shape(node)) * shape(node.args[_PRODUCTS[operator]])[-1]
    if operator in _ATTENTIONS:
        query, key = (shape(operand) for operand in node.args[:2])
        return prod(query) * key[-2] + prod(shape(node)) * key[-2]
    return 0


def _shape(node: fx.Node, symbols: Mapping[str, int]) -> list[int]:
    return [concrete_size(size, symbols) for size in node.meta["val"].shape]
