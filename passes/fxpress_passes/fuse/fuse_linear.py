"""linear(linear(x, A, a), B, b) ==> linear(x, B A, B a + b) where that is no larger; a 1x1 convolution before or after another alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, ClassVar

import torch
from fxpress_ir import Edit, Program
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from ..contract import GIVEN, Close, Context, Pass, Promise
from ..latency import Latency
from .faster import fastest
from .readers import holders, readers, sizes_of

_aten = torch.ops.aten
_LAYERS: dict[Any, int] = {_aten.linear.default: 0, _aten.conv1d.default: 1, _aten.conv2d.default: 2, _aten.conv3d.default: 3}
"""Layer ==> how many dimensions its window has."""
_PRECISE = (torch.float32, torch.float64)


@dataclass(frozen=True)
class FuseLinear(Pass):
    """Multiply out two layers with nothing between them, where one has neither more weights nor more products than the two.

    So what ``factorize`` made smaller stays apart. Of two convolutions one has to look at single pixels, and the first may have a bias
    only where the second pads nothing: padding is zeros, not the first one's bias.

    Options:
        latency: measures whether the fused program is faster; pairs that are not stay apart. None for the pipeline's; where
            that has none, all are fused.
    """

    name: ClassVar[str] = "fuse-linear"
    promise: ClassVar[Promise] = Close(1e-4, "one rounding of the product of two weights replaces those of the values between")
    after: ClassVar[tuple[str, ...]] = ("fold-constants", "compose-linear", "fold-batch-norm")
    latency: Latency | None = field(default=None, metadata={GIVEN: True})

    def apply(self, program: Program, context: Context) -> Program:
        current, refused = program, len(context.refusals)
        while True:
            del context.refusals[refused:]  # the last round's hold: what was fused since reads otherwise
            pairs = _apart(node for node in current.graph.nodes if _is_pair(node) and not _refused(current, node, context))
            if not pairs:
                return current
            latency = self.latency if self.latency is not None else context.latency
            kinds = [(f"{first} and {second}", [second]) for first, second in ((node.args[0], node) for node in pairs)]
            fused = fastest(current, kinds, _fused, latency, context)
            if fused is current or latency is not None:
                return fused
            current = fused


def _apart(seconds: Any) -> list[fx.Node]:
    """Pairs without a layer in common; the next round takes the others."""
    found: list[fx.Node] = []
    for second in seconds:
        if second.args[0] not in found:
            found.append(second)
    return found


def _is_pair(node: fx.Node) -> bool:
    first = node.args[0] if node.target in _LAYERS else None
    return isinstance(first, fx.Node) and first.target is node.target


def _refused(program: Program, second: fx.Node, context: Context) -> bool:
    first = second.args[0]
    assert isinstance(first, fx.Node)
    reason = _reason(program, first, second)
    if reason:
        context.refuse(second, f"{reason}, so it is not multiplied out with {first.name}", "both stay layers of their own")
    return bool(reason)


def _reason(program: Program, first: fx.Node, second: fx.Node) -> str:
    inner, outer = arguments(first), arguments(second)
    constants = [named[key] for named in (inner, outer) for key in ("weight", "bias") if named[key] is not None]
    if any(constant.op != "get_attr" for constant in constants):
        return "a weight is computed"
    if len(readers(first)) > 1:
        return f"{len(readers(first))} operators read what is between"
    if any(size.args[1] != 0 for size in sizes_of(first)) and _LAYERS[first.target]:
        return "the sizes of what is between are asked for"
    if any(constant.meta["val"].dtype not in _PRECISE for constant in constants):
        return f"{constants[0].meta['val'].dtype} weights would be rounded once more"
    if _LAYERS[first.target] and (reason := _unlike(program, inner, outer)):
        return reason
    return _larger(first, second)


def _unlike(program: Program, inner: Mapping[str, Any], outer: Mapping[str, Any]) -> str:
    """Why two convolutions are not one."""
    windows = [prod(named["weight"].meta["val"].shape[2:]) for named in (inner, outer)]
    if min(windows) > 1:
        return "both convolutions look at neighbours"
    if inner["groups"] != 1 or outer["groups"] != 1:
        return "one convolution is in groups"
    if windows[0] == 1 and _pads(inner):
        return "the first one pads single pixels"
    if windows[1] > 1 and any(stride != 1 for stride in inner["stride"]):
        return "the first one leaves pixels out"
    if windows[0] > 1 and _pads(outer):
        return "the second one pads single pixels"
    has_bias = inner["bias"] is not None and bool(program.tensors[str(inner["bias"].target)].any())
    return "the second one pads with zeros what has a bias" if _pads(outer) and has_bias else ""


def _pads(named: Mapping[str, Any]) -> bool:
    return any(padding != 0 for padding in named["padding"])


def _larger(first: fx.Node, second: fx.Node) -> str:
    """Why one layer would cost more: more weights, or more products at the positions that each is computed at."""
    weights = [arguments(layer)["weight"] for layer in (first, second)]
    inner, outer = (weight.meta["val"].shape for weight in weights)
    window = max(prod(inner[2:]), prod(outer[2:]))
    before, after = prod(inner) + prod(outer), outer[0] * inner[1] * window
    shared = sum(prod(weight.meta["val"].shape) for weight in weights if len(holders(weight)) > 1)
    if after + shared > before:
        return f"one weight would have {after} elements{' beside those that are read elsewhere' * bool(shared)}, the two have {before}"
    positions = [_positions(layer) for layer in (first, second)]
    products = prod(inner) * positions[0] + prod(outer) * positions[1]
    if after * positions[1] > products:
        return f"one layer would take {after * positions[1]} products, the two take {products}"
    return ""


def _positions(layer: fx.Node) -> int:
    """Pixels of an image of the layer's results; 1 where they are no numbers, or it has no window."""
    count = _LAYERS[layer.target]
    sizes = layer.meta["val"].shape[-count:] if count else ()
    return prod(sizes) if all(isinstance(size, int) for size in sizes) else 1


def _fused(program: Program, pairs: Any) -> Program:
    edit = program.edit()
    for second in map(edit.here, pairs):
        _multiply_out(edit, second.args[0], second)
    return edit.finish()


def _multiply_out(edit: Edit, first: Any, second: fx.Node) -> None:
    inner, outer = arguments(first), arguments(second)
    a, b = (edit.tensor(named["weight"]).detach() for named in (inner, outer))
    biases = [None if named["bias"] is None else edit.tensor(named["bias"]).detach().double() for named in (inner, outer)]
    weight = torch.einsum("or...,ri...->oi...", b.double(), a.double())
    bias = biases[1]
    if biases[0] is not None:
        carried = b.double().flatten(2).sum(2) @ biases[0] if b.dim() > 2 else b.double() @ biases[0]
        bias = carried if bias is None else carried + bias
    with edit.graph.inserting_before(second):
        operands: list[fx.Node | None] = [_constant(edit, f"{inner['weight'].target}.fused", weight, b)]
        operands.append(None if bias is None else _constant(edit, f"{second.name}.fused.bias", bias, b))
        layer = edit.call(second.target, inner["input"], *operands, *_geometry(inner, outer, a), like=second)  # type: ignore[arg-type]
    for size in sizes_of(first):
        size.replace_input_with(first, inner["input"])
    edit.replace(second, layer)


def _constant(edit: Edit, name: str, value: Tensor, like: Tensor) -> fx.Node:
    return edit.add_tensor(name, value.to(like.dtype).contiguous())


def _geometry(inner: Mapping[str, Any], outer: Mapping[str, Any], a: Tensor) -> list[Any]:
    """Strides multiply; padding and dilation are those of the one with a window. A linear layer has none."""
    if a.dim() == 2:
        return []
    wide = inner if prod(a.shape[2:]) > 1 else outer
    stride = [one * other for one, other in zip(_each(inner, "stride", a), _each(outer, "stride", a), strict=True)]
    return [stride, list(wide["padding"]), list(wide["dilation"]), 1]


def _each(named: Mapping[str, Any], key: str, a: Tensor) -> list[int]:
    sizes = list(named[key])
    return sizes * (a.dim() - 2) if len(sizes) == 1 else sizes
