"""W2 f(W1 x + b1) + s U f(D x + d) ==> [W2 sU] f([W1; D] x + [b1; d]): a branch of the same function becomes more of its neurons."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from .affine import Affine, NotAffine
from .composition import PRECISE, between, compose, is_noop, may_be_affine, varying
from .constants import Constants
from .layers import Layer, layer_of
from .region import Unfit

_aten = torch.ops.aten
FUNCTIONS = frozenset(
    {
        *(_aten.relu.default, _aten.gelu.default, _aten.silu.default, _aten.tanh.default, _aten.sigmoid.default, _aten.mish.default),
        *(_aten.leaky_relu.default, _aten.elu.default, _aten.softplus.default, _aten.hardtanh.default, _aten.hardswish.default),
        *(_aten.relu6.default, _aten.hardsigmoid.default, _aten.selu.default, _aten.log_sigmoid.default),
    }
)
"""Functions of each element by itself."""


@dataclass(frozen=True)
class Widening:
    """Two layers and the function between them that replace several such branches.

    Attributes:
        function: the one whose operator and arguments all branches share.
        first, last: the widest branch's layers before and after it.
        parameters: weight and bias of the first and the last layer, float64.
    """

    end: fx.Node
    source: fx.Node
    parts: tuple[fx.Node, ...]
    function: fx.Node
    first: Layer
    last: Layer
    parameters: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


def widening_at(end: fx.Node, constants: Constants, leaving: Collection[fx.Node] = ()) -> Widening | Unfit | None:
    """The branches of one input whose sum `end` is, None where they are not all linear, a function, linear.

    Args:
        leaving: nodes that will read nothing of them any more.
    """
    functions = _functions(end, constants)
    if functions is None or len(functions) < 2:
        return None
    firsts = [layer_of(function.all_input_nodes[0], constants) for function in functions]
    layers = [layer for layer in firsts if layer is not None and layer.kind == "linear" and len(layer.node.users) == 1]
    inner = between(end, functions, constants)
    lasts = [[layer_of(user, constants) for user in function.users] for function in functions]
    if len(layers) < len(functions) or any(len(found) != 1 or found[0] is None or found[0].node not in inner for found in lasts):
        return None
    sources = {_origin(layer.source) for layer in layers}
    if len(sources) > 1 or _leaks(inner, leaving):
        return None
    other = next((function for function in functions if _call(function) != _call(functions[0])), None)
    if other is not None:
        names = [str(function.target).split(".")[1] for function in (other, functions[0])]
        return Unfit(end, layers[0], f"{names[0]} is not {names[1]}, the function beside it", "it stays beside the layer")
    widest = max(range(len(functions)), key=lambda position: layers[position].shape[1])
    last = lasts[widest][0]
    assert last is not None
    try:
        weight, bias = _joined(end, functions, constants)
    except NotAffine:
        return None
    products = [layer_of(part, constants) for part in inner]
    if weight.numel() > sum(layer.weight.meta["val"].numel() for layer in products if layer is not None and layer.weight is not None):
        return None
    parts = between(end, [*sources], constants)
    parameters = (_stacked(layers, constants), (weight, bias))
    return Widening(end, sources.pop(), tuple(parts), functions[widest], layers[widest], last, parameters)


def _functions(end: fx.Node, constants: Constants) -> list[fx.Node] | None:
    """The functions of which `end` is an affine function; None where it is one of anything else too."""
    found, seen, todo = list[fx.Node](), {end}, [end]
    if not may_be_affine(end, constants):
        return None
    while todo:
        for used in varying(todo.pop(), constants):
            if used in seen:
                continue
            seen.add(used)
            if may_be_affine(used, constants):
                todo.append(used)
            elif used.target in FUNCTIONS:
                found.append(used)
            else:
                return None
    return sorted(found)


def _call(node: fx.Node) -> tuple[Any, Mapping[str, Any]]:
    named = arguments(node)
    return node.target, {key: named[key] for key in [*named][1:]}


def _origin(node: fx.Node) -> fx.Node:
    while is_noop(node):
        node = node.all_input_nodes[0]
    return node


def _leaks(inner: list[fx.Node], leaving: Collection[fx.Node]) -> bool:
    return any(user not in inner and user not in leaving for part in inner[:-1] for user in part.users)


def _joined(end: fx.Node, functions: list[fx.Node], constants: Constants) -> tuple[Tensor, Tensor]:
    """Weight [outputs, all neurons] and bias of `end` as a function of all functions' results side by side."""
    values = [function.meta["val"] for function in functions]
    counts = [value.shape[-1] for value in values]
    if values[0].dim() < 2 or not all(isinstance(count, int) for count in counts):
        raise NotAffine("its features have no fixed size")
    eye, start, sources = torch.eye(sum(counts), dtype=torch.float64), 0, {}
    for function, value, count in zip(functions, values, counts, strict=True):
        rows = range(value.dim() - 1)
        shape = [1 for _ in rows]
        linear = eye[:, start : start + count].reshape(sum(counts), *shape[1:], count)
        sources[function] = Affine(linear, torch.zeros(*shape, count).double(), tuple(rows), tuple(value.shape[:-1]))
        start += count
    value = compose(end, sources, constants)
    if value.rows != tuple(range(value.shift.dim() - 1)) or end.meta["val"].dtype not in PRECISE:
        raise NotAffine("its rows are in another order")
    return value.linear.reshape(sum(counts), -1).T, value.shift.reshape(-1)


def _stacked(layers: list[Layer], constants: Constants) -> tuple[Tensor, Tensor]:
    weights, biases = [], []
    for layer in layers:
        assert layer.weight is not None
        weight = constants.value(layer.weight).double()
        weights.append(weight.T if layer.transposed else weight)
        biases.append(weights[-1].new_zeros(len(weights[-1])) if layer.bias is None else constants.value(layer.bias).double())
    return torch.cat(weights), torch.cat(biases)
