"""conv -> batch_norm, or batch_norm -> conv ==> conv, its weight and bias scaled; any other batch_norm ==> x * scale + shift."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from fxpress_ir import Edit, Program
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from ..contract import Close, Context, Pass, Promise

_aten = torch.ops.aten
_TAKES_INPUTS = {
    *(_aten.conv1d.default, _aten.conv2d.default, _aten.conv3d.default, _aten.linear.default),
    *(_aten.conv1d.padding, _aten.conv2d.padding, _aten.conv3d.padding),
}
_TRANSPOSED = {_aten.conv_transpose1d.default, _aten.conv_transpose2d.input, _aten.conv_transpose3d.input}
_PRECISE = (torch.float32, torch.float64)


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold every batch norm in evaluation mode into the layer before it, or else into the one after it.

    The layer before has to be read by the norm alone, and the norm by the layer after it alone, which may pad only where the
    norm shifts nothing: padding comes after the shift. Computed in float64 (Jacob et al. 2018, section 3.2). A weight that
    several layers share is copied for this one. Every norm that no layer takes is refused with both reasons.

    Options:
        rewrite: write a norm that no layer takes as a product and a sum with one constant a channel.
    """

    name: ClassVar[str] = "fold-batch-norm"
    promise: ClassVar[Promise] = Close(1e-4, "one rounding of each weight to float32 replaces the norm's own roundings")
    after: ClassVar[tuple[str, ...]] = ("reestimate-batch-norm",)
    rewrite: bool = True

    def apply(self, program: Program, context: Context) -> Program:
        edit, changed = program.edit(), False
        for node in edit.graph.find_nodes(op="call_function", target=_aten.batch_norm.default):
            if not _is_usable(node, context):
                continue
            norm = _Norm(edit, node)
            before, after = norm.refused_before(), norm.refused_after()
            if before is None:
                norm.fold_before()
            elif after is None:
                norm.fold_after()
            else:
                way_on = "it is a scale and a shift now" if self.rewrite else "rewrite=true makes it a scale and a shift"
                context.refuse(node, f"{before}, and {after}", way_on)
                if not self.rewrite:
                    continue
                norm.rewrite()
            changed = True
        return edit.finish() if changed else program


def _is_usable(node: fx.Node, context: Context) -> bool:
    named, dtype = arguments(node), node.meta["val"].dtype
    if named["training"]:
        context.refuse(node, "it normalises by the batch's own statistics", "capture the model in evaluation mode")
        return False
    if not all(_is_constant(named[key]) for key in ("weight", "bias", "running_mean", "running_var")):
        context.refuse(node, "one of its statistics or factors is computed", "run fold-constants first")
        return False
    if dtype not in _PRECISE:
        context.refuse(node, f"{dtype} constants cannot take its factors without loss", "convert the model to float32")
        return False
    return True


def _is_constant(value: fx.Node | None) -> bool:
    return value is None or value.op == "get_attr"


class _Norm:
    """A batch norm as x * gain + shift, in float64, and what can be done with it in an edit."""

    def __init__(self, edit: Edit, node: fx.Node) -> None:
        self._edit, self._node, named = edit, node, arguments(node)
        self._x: fx.Node = named["input"]
        self._gain = self._value(named["weight"], 1.0) / torch.sqrt(self._value(named["running_var"], 1.0) + named["eps"])
        self._shift = self._value(named["bias"], 0.0) - self._value(named["running_mean"], 0.0) * self._gain

    def _value(self, node: fx.Node | None, default: float) -> Tensor:
        return torch.tensor(default, dtype=torch.float64) if node is None else self._edit.tensor(node).detach().double()

    def refused_before(self) -> str | None:
        """Why the layer before cannot take it."""
        layer = self._x
        if layer.target not in _TAKES_INPUTS | _TRANSPOSED:
            return f"it follows {layer.name}, which is no convolution or linear"
        if len(layer.users) > 1:
            return f"the output of {layer.name} is also read by {_names(user for user in layer.users if user is not self._node)}"
        return self._refused_by(layer)

    def refused_after(self) -> str | None:
        """Why the layer after it cannot take it."""
        readers = list(self._node.users)
        if len(readers) != 1 or readers[0].op == "output":
            return f"it is read by {_names(readers) or 'nothing'}"
        (layer,) = readers
        if layer.target not in _TAKES_INPUTS:
            return f"it is read by {layer.name}, which is no convolution or linear"
        return self._refused_by(layer) or (f"{layer.name} pads what it shifts" if self._pads(layer) and bool(self._shift.any()) else None)

    def _refused_by(self, layer: fx.Node) -> str | None:
        named, rank = arguments(layer), self._node.meta["val"].dim()
        if not _is_constant(named["weight"]) or not _is_constant(named["bias"]):
            return f"a weight of {layer.name} is computed (run fold-constants first)"
        if self._edit.tensor(named["weight"]).dim() != rank:
            return f"{layer.name} has {rank} dimensions, so its features are not the norm's channels"
        return None

    def _pads(self, layer: fx.Node) -> bool:
        """The layer reads zeros around its input."""
        named = arguments(layer)
        padding = named.get("padding", 0)
        if padding == "same":
            return any(size > 1 for size in self._edit.tensor(named["weight"]).shape[2:])
        return padding != "valid" and any([padding] if isinstance(padding, int) else padding)

    def fold_before(self) -> None:
        """gain * (W x + b) + shift."""
        layer = self._x
        named = arguments(layer)
        weight = self._edit.tensor(named["weight"]).detach().double()
        gain = self._gain.expand(self._node.meta["val"].shape[1])
        if layer.target in _TRANSPOSED:
            inputs, outputs, *window = weight.shape
            groups = (named["groups"], inputs // named["groups"], outputs, *window)
            scaled = weight.reshape(groups) * gain.reshape(named["groups"], 1, outputs, *[1] * len(window))
        else:
            scaled = weight * gain.reshape(-1, *[1] * (weight.dim() - 1))
        self._put(layer, scaled.reshape(weight.shape), self._value(named["bias"], 0.0) * gain + self._shift)
        self._edit.replace(self._node, layer)

    def fold_after(self) -> None:
        """W (gain * x + shift) + b."""
        (layer,) = self._node.users
        named = arguments(layer)
        weight = self._edit.tensor(named["weight"]).detach().double()
        groups, (outputs, inputs, *window) = named.get("groups", 1), weight.shape
        gain, shift = (value.expand(groups * inputs).reshape(groups, 1, inputs, *[1] * len(window)) for value in (self._gain, self._shift))
        grouped = weight.reshape(groups, outputs // groups, inputs, *window)
        self._put(
            layer, (grouped * gain).reshape(weight.shape), (grouped * shift).reshape(outputs, -1).sum(1) + self._value(named["bias"], 0.0)
        )
        self._edit.replace(self._node, self._x)

    def rewrite(self) -> None:
        """x * gain + shift."""
        value = self._node.meta["val"]
        stem = str(arguments(self._node)["running_mean"].target).removesuffix(".running_mean")
        scale, shift = (
            part.expand(value.shape[1]).reshape(-1, *[1] * (value.dim() - 2)).to(value.dtype) for part in (self._gain, self._shift)
        )
        with self._edit.graph.inserting_before(self._node):
            parts = (self._x, self._edit.add_tensor(f"{stem}.scale", scale.contiguous()))
            scaled = self._edit.call(_aten.mul.Tensor, *parts, like=self._node, name=f"{self._node.name}_scaled")
            parts = (scaled, self._edit.add_tensor(f"{stem}.shift", shift.contiguous()))
            shifted = self._edit.call(_aten.add.Tensor, *parts, like=self._node, name=f"{self._node.name}_shifted")
        self._edit.replace(self._node, shifted)

    def _put(self, layer: fx.Node, weight: Tensor, bias: Tensor) -> None:
        """Give a layer these constants instead of its own."""
        old = arguments(layer)["weight"]
        stem, dtype = str(old.target).removesuffix(".weight").removesuffix(".folded"), self._edit.tensor(old).dtype
        with self._edit.graph.inserting_before(layer):
            added = tuple(
                self._edit.add_tensor(f"{stem}.folded.{name}", value.to(dtype)) for name, value in (("weight", weight), ("bias", bias))
            )
        layer.args = (layer.args[0], *added, *layer.args[3:])
        layer.kwargs = {key: item for key, item in layer.kwargs.items() if key not in ("weight", "bias")}


def _names(nodes: Iterable[fx.Node]) -> str:
    return " and ".join(sorted("an output" if node.op == "output" else node.name for node in nodes))
