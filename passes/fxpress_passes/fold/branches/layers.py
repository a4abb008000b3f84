"""The layers that can take a fold: linear, convolution, embedding and normalisation, and how they are written anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from .affine import Affine, NotAffine, widened
from .constants import Constants
from .convolutions import CONVOLUTIONS, grouped_kernel, window_of
from .rules import Numbers

_aten = torch.ops.aten
_LINEAR: dict[Any, tuple[str, str, str | None]] = {
    _aten.linear.default: ("input", "weight", "bias"),
    _aten.addmm.default: ("mat1", "mat2", "self"),
    _aten.mm.default: ("self", "mat2", None),
    _aten.matmul.default: ("self", "other", None),
}
"""Operator ==> its input, weight and bias."""
_NORMS: dict[Any, tuple[int, ...]] = {_aten.layer_norm.default: (), _aten.rms_norm.default: (), _aten.batch_norm.default: (1,)}
"""Operator ==> the dimensions that it scales; none where its arguments say."""


@dataclass(frozen=True)
class Layer:
    """One layer with constant parameters.

    Attributes:
        kind: ``linear``, ``convolution``, ``embedding`` or ``normalisation``.
        transposed: its weight is [inputs, outputs].
    """

    node: fx.Node
    kind: str
    source: fx.Node
    weight: fx.Node | None
    bias: fx.Node | None
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Inputs and outputs of one row; of a convolution, channels."""
        assert self.weight is not None
        first, second = self.weight.meta["val"].shape[:2]
        if self.kind == "convolution":
            second *= arguments(self.node)["groups"]
        return (first, second) if self.transposed or self.kind == "embedding" else (second, first)

    def features(self, dims: int) -> tuple[int, ...]:
        """The dimensions that are no rows, of a result with `dims` of them."""
        if self.kind == "convolution" or self.node.target is _aten.batch_norm.default:
            return (1,)
        count = len(arguments(self.node)["normalized_shape"]) if self.kind == "normalisation" else 1
        return tuple(range(dims - count, dims))

    @property
    def name(self) -> str:
        """The name of the tensor that takes a fold."""
        parameter = self.weight if self.weight is not None and self.weight.op == "get_attr" else None
        return str(parameter.target) if parameter is not None else f"{self.node.name}.weight"


def layer_of(node: fx.Node, constants: Constants) -> Layer | None:
    """The layer that a node is, None where it is none that can take a fold."""
    if node.target in _LINEAR:
        return _linear(node, constants)
    if node.target in CONVOLUTIONS or node.target is _aten.embedding.default:
        kind, source = ("embedding", "indices") if node.target is _aten.embedding.default else ("convolution", "input")
        named = arguments(node)
        layer = Layer(node, kind, named[source], named["weight"], named.get("bias"))
        return layer if _is_constant(layer, constants) else None
    if node.target in _NORMS:
        named = arguments(node)
        layer = Layer(node, "normalisation", named["input"], named["weight"], named.get("bias"))
        usable = _is_constant(layer, constants) and not named.get("training", False)
        return layer if usable else None
    return None


def _linear(node: fx.Node, constants: Constants) -> Layer | None:
    named, (source, weight, bias) = arguments(node), _LINEAR[node.target]
    if (named.get("alpha", 1), named.get("beta", 1)) != (1, 1) or named[weight].meta["val"].dim() != 2:
        return None
    layer = Layer(node, "linear", named[source], named[weight], named[bias] if bias else None, node.target is not _aten.linear.default)
    if layer.bias is not None and layer.bias.meta["val"].dim() != 1:
        return None
    return layer if _is_constant(layer, constants) else None


def _is_constant(layer: Layer, constants: Constants) -> bool:
    varies = not constants.has(layer.source)
    return varies and all(part is None or constants.has(part) for part in (layer.weight, layer.bias))


def source_value(layer: Layer, source: fx.Node) -> Any:
    """What `source` is to the layer: numbers of rows, or features in the dimensions where its own input has them.

    Raises:
        NotAffine: features of no fixed size.
    """
    value = source.meta["val"]
    if layer.kind == "embedding":
        return Numbers(tuple(value.shape))
    return Affine.identity(value.shape, (1,) if layer.kind == "convolution" else (value.dim() - 1,))


def normalised_value(layer: Layer, constants: Constants) -> Affine:
    """A normalisation's result as a function of what it scales and shifts."""
    found = layer.node.meta["val"].shape
    value = Affine.identity(found, layer.features(len(found)))
    shape = value.shift.shape
    parts = [None if part is None else constants.value(part).double().reshape(shape) for part in (layer.weight, layer.bias)]
    gain, shift = parts
    return Affine(value.linear if gain is None else gain, value.shift if shift is None else shift, value.rows, value.sizes, diagonal=True)


def parameters(layer: Layer, value: Affine) -> tuple[Tensor, Tensor]:
    """Weight and bias, float64, of the layer of `layer`'s kind that computes `value`; a linear weight is [outputs, inputs].

    Raises:
        NotAffine: no layer of that kind does.
    """
    dims = value.shift.dim()
    if value.features != layer.features(dims):
        raise NotAffine("its features lie elsewhere than the layer's")
    if layer.kind == "normalisation":
        if not value.diagonal:
            raise NotAffine("it mixes the features of a normalisation")
        shape = [layer.node.meta["val"].shape[d] for d in value.features]
        return value.linear.reshape(shape), value.shift.reshape(shape)
    if value.rows != tuple(d for d in range(dims) if d not in value.features):
        raise NotAffine("its rows are in another order than the layer's")
    value = value.dense()
    if layer.kind == "convolution":
        return _kernel(layer, value)
    matrix, shift = value.linear.reshape(value.inputs, -1), value.shift.reshape(-1)
    if layer.kind == "embedding":
        return matrix + shift, shift * 0
    return matrix.T, shift


def _kernel(layer: Layer, value: Affine) -> tuple[Tensor, Tensor]:
    named = arguments(layer.node)
    kernel = tuple(named["weight"].meta["val"].shape[2:])
    value = widened(value, window_of(named, kernel))
    shift = value.shift.reshape(-1)
    dense = value.linear.reshape(-1, *kernel, len(shift)).movedim(-1, 0)
    return grouped_kernel(dense, named["groups"]), shift


def call(layer: Layer, source: Any, weight: Any, bias: Any) -> tuple[Any, tuple[Any, ...]]:
    """Operator and arguments of the layer with these parameters on `source`: nodes, or tensors to run it on."""
    if layer.kind == "linear":
        return _aten.linear.default, (source, weight) if bias is None else (source, weight, bias)
    given = {"indices" if layer.kind == "embedding" else "input": source, "weight": weight, "bias": bias}
    named = arguments(layer.node)
    return layer.node.target, tuple(given.get(name, value) for name, value in named.items())
