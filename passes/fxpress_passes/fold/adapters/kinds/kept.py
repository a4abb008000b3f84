"""Folds that keep what the base is: the zeros of a pruned one (MaskLoRA, ScaleLoRA, PruneLoRA), the grid of a quantised one (L4Q)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..layer import Folded, Kind, Layer


def _product(layer: Layer, name: str) -> Tensor:
    layer.only("linear")
    outputs, inputs = layer.weight.shape
    return layer.sized(f"{name}_B", outputs, None) @ layer.sized(f"{name}_A", None, inputs)


def _mask_lora(layer: Layer) -> Folded:
    """W + s (B A) where W is not 0: zeros stay zeros (PERP, M248)."""
    return layer.plus(layer.option("scale", 1.0) * _product(layer, "masklora") * (layer.weight != 0))


def _scale_lora(layer: Layer) -> Folded:
    """W * (B A): zeros stay zeros (PERP, M248)."""
    return layer.becomes(layer.weight * _product(layer, "scalelora"), layer.bias)


def _prune_lora(layer: Layer) -> Folded:
    """(W + s B A) where W is not 0; trained without the mask, so it is not the function that was trained (PERP, M248)."""
    return layer.becomes((layer.weight + layer.option("scale", 1.0) * _product(layer, "prunelora")) * (layer.weight != 0), layer.bias)


def _l4q(layer: Layer) -> Folded:
    """s clamp(round((W + alpha B A) / s), qmin, qmax) in float32, as in training, so that to quantise it again is exact (M193)."""
    layer.only("linear")
    bits = layer.option("bits")
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    a, b, scale = (layer[f"l4q_{name}"].float() for name in ("A", "B", "scale"))
    outputs, inputs = layer.weight.shape
    groups = scale.numel() // outputs
    if scale.numel() != outputs * groups or not groups or inputs % groups:
        what = f"{scale.numel()} scales do not divide a weight {list(layer.weight.shape)}"
        raise layer.error(what, "fold it onto the base that it was trained on")
    trained = layer.weight.float() + layer.option("alpha", 1.0) * (b @ a)
    steps = scale.reshape(outputs, groups, 1)
    grid = torch.round(trained.reshape(outputs, groups, -1) / steps).clamp(low, high) * steps
    return layer.becomes(grid.double().reshape(layer.weight.shape), layer.bias)


KINDS = {
    "MASKLORA": Kind(_mask_lora, ("masklora_",), "M248", additive=False),
    "SCALELORA": Kind(_scale_lora, ("scalelora_",), "M248", additive=False),
    "PRUNELORA": Kind(_prune_lora, ("prunelora_",), "M248", additive=False),
    "L4Q": Kind(_l4q, ("l4q_",), "M193", additive=False),
}
