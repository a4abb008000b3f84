"""Node ==> the largest part of the graph that ends in it and that one layer of the shape of a layer in it computes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from fxpress_ir.ops import arguments
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from .affine import NotAffine
from .composition import PRECISE, between, compose, is_value, sources_of, varying
from .constants import Constants
from .layers import Layer, layer_of, normalised_value, parameters, source_value
from .rules import PRODUCTS, SAME, SCALINGS

_aten = torch.ops.aten


@dataclass(frozen=True)
class Region:
    """Operators between a source and an end that one layer replaces.

    Attributes:
        end: whose value it is.
        source: what all of it is computed from.
        parts: the operators, `end` among them, in order.
        layer: the one whose form and name the new layer takes.
        weight, bias: of the new layer, float64.
    """

    end: fx.Node
    source: fx.Node
    parts: tuple[fx.Node, ...]
    layer: Layer
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Unfit:
    """Why a layer and a branch beside it stay."""

    end: fx.Node
    layer: Layer
    reason: str
    way_on: str


def region_at(end: fx.Node, constants: Constants, leaving: Collection[fx.Node] = ()) -> Region | Unfit | None:
    """The largest region that ends in `end` and has more than a layer in it; None where there is none.

    Args:
        leaving: nodes that will read nothing of it any more.
    """
    found: Region | None = None
    for source in sources_of(end, constants):
        parts = between(end, [source], constants)
        layer = _base(source, end, parts, constants)
        work = [part for part in parts if part.target in SCALINGS or part.target in PRODUCTS]
        if layer is None or len(work) == 1:
            continue
        if _is_unit(source):
            break  # the factor is the gain of a normalisation that is written out
        made = _region(end, source, parts, layer, constants, leaving)
        if isinstance(made, Region):
            found = made
        elif found is None and _is_branched(work, constants):
            return made
        else:
            break
    return found


def _region(
    end: fx.Node, source: fx.Node, parts: list[fx.Node], layer: Layer, constants: Constants, leaving: Collection[fx.Node]
) -> Region | Unfit:
    try:
        value = compose(end, {source: source_value(layer, source)}, constants)
        _check_dtypes(layer, source, end)
        weight, bias = parameters(layer, value)
    except NotAffine as reason:
        return Unfit(end, layer, str(reason), "convert the model to float32" if "torch." in str(reason) else "it stays beside the layer")
    readers = _other_readers(layer, {*parts, *leaving}, parts)
    if readers:
        names = " and ".join(sorted("an output" if reader.op == "output" else reader.name for reader in readers))
        return Unfit(end, layer, f"{layer.node.name} is also read without it, by {names}", "two layers would take the place of one")
    return Region(end, source, tuple(parts), layer, weight, bias)


def _is_branched(work: list[fx.Node], constants: Constants) -> bool:
    """There is more to fold than numbers: a product beside the layer, or a factor or shift for each feature."""
    if any(len(varying(part, constants)) > 1 for part in work) and sum(part.target in PRODUCTS for part in work) > 1:
        return True
    used = (operand for part in work if part.target in SCALINGS for operand in part.all_input_nodes if constants.has(operand))
    return any(operand.meta["val"].numel() > 1 for operand in used)


def norm_region(node: fx.Node, constants: Constants) -> Region | None:
    """A normalisation and the constant factors and shifts that follow it, as one normalisation."""
    layer = layer_of(node, constants)
    if layer is None or layer.kind != "normalisation":
        return None
    ends = [node]
    while len(readers := list(ends[-1].users)) == 1 and _scales(readers[0], ends[-1], constants):
        ends += readers
    found = None
    for count, end in enumerate(ends[1:], start=2):
        if end.target not in SCALINGS:
            continue
        try:
            weight, bias = parameters(layer, compose(end, {node: normalised_value(layer, constants)}, constants))
            _check_dtypes(layer, node, end)
        except NotAffine:
            break
        if bool(bias.any()) and "bias" not in arguments(node):
            break
        found = Region(end, layer.source, tuple(ends[:count]), layer, weight, bias)
    return found


def _scales(node: fx.Node, operand: fx.Node, constants: Constants) -> bool:
    """It works on each element of `operand`, with constants alone."""
    return (node.target in SCALINGS or node.target in SAME) and varying(node, constants) == [operand]


def _base(source: fx.Node, end: fx.Node, parts: list[fx.Node], constants: Constants) -> Layer | None:
    """The layer in a region from `source` to `end` that has the region's own shape; its weight is a stored one where there are several."""
    found = [layer for layer in (layer_of(part, constants) for part in parts) if layer is not None and _fits(layer, source, end)]

    def rank(layer: Layer) -> tuple[int, bool]:
        assert layer.weight is not None
        return layer.weight.meta["val"].numel(), layer.weight.op == "get_attr"

    return max(found, key=rank, default=None)


def _fits(layer: Layer, source: fx.Node, end: fx.Node) -> bool:
    first, last = source.meta["val"], end.meta["val"]
    if not isinstance(first, Tensor) or not isinstance(last, Tensor) or layer.kind == "normalisation":
        return False
    if layer.kind == "convolution":
        assert layer.weight is not None
        same = first.dim() == last.dim() == layer.weight.meta["val"].dim() and first.shape[1] == layer.shape[0]
        return same and _equal(last.shape, layer.node.meta["val"].shape)
    inputs, outputs = layer.shape
    if layer.kind == "embedding":
        return not first.is_floating_point() and _equal(last.shape, (*first.shape, outputs))
    return first.dim() > 1 and first.shape[-1] == inputs and _equal(last.shape, (*first.shape[:-1], outputs))


def _equal(first: Any, second: Any) -> bool:
    return len(first) == len(second) and all(statically_known_true(a == b) for a, b in zip(first, second, strict=True))


def _check_dtypes(layer: Layer, source: fx.Node, end: fx.Node) -> None:
    tensors = [end, *([] if layer.kind == "embedding" else [source]), *([] if layer.weight is None else [layer.weight])]
    dtypes = sorted({str(node.meta["val"].dtype) for node in tensors})
    if len(dtypes) > 1 or end.meta["val"].dtype not in PRECISE:
        raise NotAffine(f"its values are {' and '.join(dtypes)}")


def _other_readers(layer: Layer, inside: Collection[fx.Node], parts: list[fx.Node]) -> list[fx.Node]:
    """Who reads the layer's result, or what is made of it inside the region, from outside."""
    made = {layer.node}
    for part in parts:
        if any(used in made for used in part.all_input_nodes):
            made.add(part)
    made.discard(parts[-1])
    readers = (user for part in made for user in part.users if user not in inside)
    return [reader for reader in readers if is_value(reader) or reader.op == "output" or any(user not in inside for user in reader.users)]


def _is_unit(node: fx.Node) -> bool:
    """x * rsqrt(...) or x / sqrt(...), casts aside: a normalisation without its gain."""
    while node.target in SAME:
        node = node.all_input_nodes[0]
    if node.target is _aten.mul.Tensor:
        return any(used.target in (_aten.rsqrt.default, _aten.reciprocal.default) for used in node.all_input_nodes)
    divisor = arguments(node)["other"] if node.target is _aten.div.Tensor else None
    return isinstance(divisor, fx.Node) and divisor.target in (_aten.sqrt.default, _aten.linalg_vector_norm.default)
