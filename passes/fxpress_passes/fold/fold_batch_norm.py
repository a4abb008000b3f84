"""conv -> batch_norm ==> conv, its weight scaled by gamma / sqrt(var + eps), its bias (bias - mean) scaled, + beta."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from fxpress_ir import Edit, Program
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from ..contract import Close, Context, Pass, Promise

_aten = torch.ops.aten
_PRODUCERS = {
    *(_aten.conv1d.default, _aten.conv2d.default, _aten.conv3d.default, _aten.linear.default),
    *(_aten.conv1d.padding, _aten.conv2d.padding, _aten.conv3d.padding),
}
_PRECISE = (torch.float32, torch.float64)


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold every batch norm in evaluation mode that directly follows a convolution or linear it alone reads.

    Computed in float64 (Jacob et al. 2018, section 3.2). A weight that several layers share is copied for this one.
    """

    name: ClassVar[str] = "fold-batch-norm"
    promise: ClassVar[Promise] = Close(1e-4, "one rounding of each weight to float32 replaces the norm's own roundings")

    def apply(self, program: Program, context: Context) -> Program:
        norms = [node for node in program.graph.nodes if node.target is _aten.batch_norm.default]
        foldable = [node for node in norms if _folds(node, context)]
        if not foldable:
            return program
        edit = program.edit()
        for node in map(edit.here, foldable):
            _fold(edit, node)
        return edit.finish()


def _folds(norm: fx.Node, context: Context) -> bool:
    named = arguments(norm)
    producer = named["input"]
    if named["training"]:
        context.refuse(norm, "it normalises by the batch's own statistics", "capture the model in evaluation mode")
        return False
    if producer.target not in _PRODUCERS:
        context.refuse(norm, f"it follows {producer.name}, which is no convolution or linear")
        return False
    if len(producer.users) > 1:
        others = ", ".join(sorted(user.name for user in producer.users if user is not norm))
        context.refuse(norm, f"the output of {producer.name} is also read by {others}")
        return False
    layer = arguments(producer)
    constants = [*(layer[key] for key in ("weight", "bias")), *(named[key] for key in ("weight", "bias", "running_mean", "running_var"))]
    if any(isinstance(value, fx.Node) and value.op != "get_attr" for value in constants):
        context.refuse(norm, "a weight is computed", "run fold-constants first")
        return False
    weight, result = layer["weight"].meta["val"], producer.meta["val"]
    if weight.dim() != result.dim():
        context.refuse(norm, f"{producer.name} has {result.dim()} dimensions, so its features are not the norm's channels")
        return False
    if weight.dtype not in _PRECISE:
        context.refuse(norm, f"a {weight.dtype} weight cannot take the norm's factors without loss", "convert the model to float32")
        return False
    return True


def _fold(edit: Edit, norm: fx.Node) -> None:
    named = arguments(norm)
    producer: fx.Node = named["input"]
    layer = arguments(producer)

    def value(node: Any, default: float) -> Tensor:
        return torch.tensor(default, dtype=torch.float64) if node is None else edit.tensor(node).detach().double()

    gain = value(named["weight"], 1.0) / torch.sqrt(value(named["running_var"], 1.0) + named["eps"])
    weight = edit.tensor(layer["weight"]).detach()
    scaled = weight.double() * gain.reshape(-1, *[1] * (weight.dim() - 1))
    shift = (value(layer["bias"], 0.0) - value(named["running_mean"], 0.0)) * gain + value(named["bias"], 0.0)
    stem = str(layer["weight"].target).removesuffix(".weight")
    with edit.graph.inserting_before(producer):
        new_weight = edit.add_tensor(f"{stem}.folded.weight", scaled.to(weight.dtype))
        new_bias = edit.add_tensor(f"{stem}.folded.bias", shift.to(weight.dtype))
    rest = producer.args[3:]
    producer.args = (producer.args[0], new_weight, new_bias, *rest)
    producer.kwargs = {key: item for key, item in producer.kwargs.items() if key not in ("weight", "bias")}
    edit.replace(norm, producer)
