"""linear(x, W, c) * a + b ==> linear(x, a W, a c + b); linear(x * a + b, W, c) ==> linear(x, W a, W b + c); x * a * b ==> x * (a b)."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from fxpress_ir import Edit, Program
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from ..contract import Close, Context, Pass, Promise
from .affine import Affine, Chain, chain
from .neighbours import LAYERS, TABLES, Place, after, before, is_near

_aten = torch.ops.aten


@dataclass(frozen=True)
class FuseAffine(Pass):
    """Multiply products and sums with constants, one for all or one a channel, into weights beside them.

    Before them that is a layer, a normalisation or an embedding that they alone read, or the outputs of a layer that a slice takes;
    numbers pass through views and permutations. After them it is all layers that read them, and the input channels behind a
    concatenation, where a skip connection is scaled (ScaleLong). A chain that no weight takes becomes one product and one sum.
    """

    name: ClassVar[str] = "fuse-affine"
    promise: ClassVar[Promise] = Close(1e-4, "one rounding of each weight replaces those of the products and sums")
    after: ClassVar[tuple[str, ...]] = ("fold-constants", "compose-rms-norm")
    needs: ClassVar[tuple[str, ...]] = ("remove-noops", "compose-rms-norm")  # a gain is the normalisation's before it is a product

    def apply(self, program: Program, context: Context) -> Program:
        edit, seen, changed = program.edit(), set[fx.Node](), False
        for head in list(edit.graph.nodes):
            found = None if head in seen else chain(edit, head)
            if found is not None:
                seen.update(found.nodes)
                changed |= found.affine.is_finite and _fused(edit, found, context)
        return edit.finish() if changed else program


def _fused(edit: Edit, found: Chain, context: Context) -> bool:
    """Whether a chain was changed."""
    ahead = before(edit, found.source, found.nodes[0], found.affine)
    if isinstance(ahead, Place):
        _scale_outputs(edit, ahead, found.affine)
        _remove(edit, found)
        return True
    behind = after(edit, found.tip, found.affine)
    if not isinstance(behind, str):
        for place in behind:
            _scale_inputs(edit, place, found.affine)
        _remove(edit, found)
        return True
    shorter = len(found.nodes) > len(_needed(found.affine))
    if shorter:
        _rewrite(edit, found)
    elif is_near(found.source, found.tip):
        context.refuse(found.tip, f"{ahead}, and {behind}", "it stays as it is")
    return shorter


def _remove(edit: Edit, found: Chain, value: fx.Node | None = None) -> None:
    """Who read the chain reads `value`, or what the chain read; all its sizes are those of that."""
    edit.replace(found.tip, value or found.source)
    for node in reversed(found.nodes[:-1]):
        edit.replace(node, found.source)


def _needed(affine: Affine) -> list[tuple[object, Tensor]]:
    """The operators that an affine function takes, with their constants."""
    steps: list[tuple[object, Tensor]] = []
    if bool((affine.gain != 1).any()):
        steps.append((_aten.mul.Tensor, affine.gain))
    if affine.shifts:
        steps.append((_aten.add.Tensor, affine.shift))
    return steps


def _rewrite(edit: Edit, found: Chain) -> None:
    """At most one product and one sum."""
    value, tip = found.source, found.tip
    behind = 0 if found.affine.axis is None else len(tip.meta["val"].shape) - found.affine.axis - 1
    with edit.graph.inserting_before(tip):
        for operator, constant in _needed(found.affine):
            operand: fx.Node | float = float(constant) if constant.dim() == 0 else _tensor(edit, tip, constant.reshape(-1, *[1] * behind))
            value = edit.call(operator, value, operand, like=tip)  # type: ignore[arg-type]
            value.meta["val"] = tip.meta["val"]
    _remove(edit, found, value)


def _tensor(edit: Edit, like: fx.Node, constant: Tensor) -> fx.Node:
    value = constant.to(like.meta["val"].dtype).contiguous()
    node = edit.add_tensor(f"{like.name}.constant", value)
    node.meta["val"] = value  # chains after this one ask for its shape
    return node


def _scale_outputs(edit: Edit, place: Place, affine: Affine) -> None:
    """gain * (W x + b) + shift for the outputs of a place."""
    layer, named = place.layer, arguments(place.layer)
    if layer.target in LAYERS:
        weight = edit.tensor(named["weight"]).detach()
        gain, shift = _placed(affine, place, len(weight))
        _put(edit, layer, weight.double() * gain.reshape(-1, *[1] * (weight.dim() - 1)), _bias(edit, layer, len(weight)) * gain + shift)
    elif layer.target in TABLES:
        _put(edit, layer, edit.tensor(named["weight"]).detach().double() * affine.gain + affine.shift, None)
    else:
        shape = named["normalized_shape"] if "normalized_shape" in named else [layer.meta["val"].shape[1]]
        ones = torch.ones(list(shape), dtype=torch.float64)
        weight = ones if named["weight"] is None else edit.tensor(named["weight"]).detach().double()
        bias = ones * 0 if named.get("bias") is None else edit.tensor(named["bias"]).detach().double()
        _put(edit, layer, weight * affine.gain, bias * affine.gain + affine.shift if "bias" in named else None)


def _scale_inputs(edit: Edit, place: Place, affine: Affine) -> None:
    """W (gain * x + shift) + b for the inputs of a place."""
    layer, named = place.layer, arguments(place.layer)
    weight, groups = edit.tensor(named["weight"]).detach().double(), named.get("groups", 1)
    outputs, inputs, *window = weight.shape
    gain, shift = (value.reshape(groups, 1, inputs, *[1] * len(window)) for value in _placed(affine, place, groups * inputs))
    grouped = weight.reshape(groups, outputs // groups, inputs, *window)
    bias = (grouped * shift).reshape(outputs, inputs * prod(window)).sum(1) + _bias(edit, layer, outputs)
    _put(edit, layer, (grouped * gain).reshape(weight.shape), bias)


def _placed(affine: Affine, place: Place, channels: int) -> tuple[Tensor, Tensor]:
    """Gain and shift of all channels of a layer: 1 and 0 outside of the place."""
    run = slice(place.start, channels if place.end is None else place.end)
    gain, shift = torch.ones(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)
    gain[run], shift[run] = affine.along(run.stop - run.start)
    return gain, shift


def _bias(edit: Edit, layer: fx.Node, channels: int) -> Tensor:
    bias = arguments(layer)["bias"]
    return torch.zeros(channels, dtype=torch.float64) if bias is None else edit.tensor(bias).detach().double()


def _put(edit: Edit, layer: fx.Node, weight: Tensor, bias: Tensor | None) -> None:
    """Give a layer these constants; a bias of zeros is none where it had none."""
    named = arguments(layer)
    if bias is not None and named["bias"] is None and not bool(bias.any()):
        bias = None
    with edit.graph.inserting_before(layer):
        new = {name: _constant(edit, layer, name, value) for name, value in (("weight", weight), ("bias", bias)) if value is not None}
    layer.args, layer.kwargs = tuple({**named, **new}.values()), {}


def _constant(edit: Edit, layer: fx.Node, name: str, value: Tensor) -> fx.Node:
    old = arguments(layer)[name]
    hint = f"{layer.name}.scaled.{name}" if old is None else f"{str(old.target).removesuffix('.scaled')}.scaled"
    return edit.add_tensor(hint, value.to(layer.meta["val"].dtype).contiguous())
