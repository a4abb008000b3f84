"""graph ==> multiply-accumulates, parameters, bytes, peak memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from .liveness import peak
from .sizes import concrete_size

_aten, _fxp = torch.ops.aten, torch.ops.fxp
_CONVOLUTIONS = {_aten.conv1d.default, _aten.conv2d.default, _aten.conv3d.default}
_VIEWS = {_aten.view.default, _aten.flatten.using_ints, _aten.permute.default, _aten.transpose.int, _aten.reshape.default}


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


def _is_convolution(node: fx.Node) -> bool:
    return node.target in _CONVOLUTIONS or getattr(node.target, "_opname", "") == "conv2d"


def _is_product(node: fx.Node) -> bool:
    return getattr(node.target, "_opname", "") in ("linear", "matmul", "bmm", "mm", "addmm")


def cost(graph: fx.Graph, tensors: Mapping[str, Tensor], symbols: Mapping[str, int]) -> Cost:
    """The cost with every symbolic size at the value in `symbols`."""

    def shape(node: fx.Node) -> list[int]:
        return [concrete_size(size, symbols) for size in node.meta["val"].shape]

    def size(node: fx.Node) -> int:
        value: Any = node.meta.get("val")
        if node.op not in ("placeholder", "call_function") or not isinstance(value, Tensor) or node.target in _VIEWS:
            return 0
        return prod(shape(node)) * value.element_size()

    def macs(node: fx.Node) -> int:
        if _is_convolution(node):
            return prod(shape(node)) * prod(shape(node.args[1])[1:])  # type: ignore[arg-type]
        if _is_product(node):
            first = node.args[1 if node.target is _aten.addmm.default else 0]
            return prod(shape(node)) * shape(first)[-1]  # type: ignore[arg-type]
        return 0

    return Cost(
        macs=sum(macs(node) for node in graph.nodes),
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        weight_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
        activation_bytes=sum(size(node) for node in graph.nodes if node.op == "call_function"),
        peak_memory=peak(graph, size),
    )
