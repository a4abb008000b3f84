"""Several adapters of one layer ==> W + sum of w_i (W'_i - W), as it is or as its best approximation of a rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from fxpress_ir.errors import PassError
from torch import Tensor

from .layer import Folded, Kind, Layer

COMBINATIONS = ("linear", "cat", "svd")
_UNFITTING = (ArithmeticError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
"""What a formula raises on tensors of other shapes than its kind's, or on options that are no numbers."""


@dataclass(frozen=True)
class Part:
    """One adapter's share in a layer."""

    layer: Layer
    kind: Kind
    share: float

    def folded(self) -> Folded:
        """W', b'; PassError where the folder holds tensors of the layer that the formula does not know."""
        try:
            found = self.kind.fold(self.layer)
        except _UNFITTING as error:
            first = str(error).partition("\n")[0][:200]
            raise self.layer.error(f"its tensors or options do not fit together: {first}", "save the adapter again") from error
        unread = sorted(set(self.layer.tensors) - self.layer.read)
        if unread:
            raise self.layer.error(f"the formula has no place for {', '.join(unread)}", "merge it with PEFT")
        return found


def combined(parts: Sequence[Part], combination: str, rank: int) -> Folded:
    """The layer with all of its adapters.

    The change of a LoRA is s B A whatever its scale s, so the sum of changes is what joining factors (PEFT's ``cat``) gives; PEFT's own
    ``linear`` is (sum of sqrt(w s) B) (sum of sqrt(w s) A), which has cross terms and is no sum of the adapters.
    """
    layer = parts[0].layer
    if len(parts) == 1 and parts[0].share == 1 and combination != "svd":
        return parts[0].folded()
    weight, bias, moved = layer.weight.clone(), layer.bias_or_zero.clone(), False
    for part in parts:
        one, shifted = part.folded()
        weight += part.share * (one - layer.weight)
        if shifted is not None and shifted is not layer.bias:
            bias, moved = bias + part.share * (shifted - layer.bias_or_zero), True
    if combination == "svd":
        weight = layer.weight + _truncated(weight - layer.weight, rank or max(_rank(part) for part in parts))
    return weight, bias if moved else layer.bias


def _rank(part: Part) -> int:
    config = part.layer.config
    if not isinstance(config.get("r"), int):
        raise PassError("its rank is not known", where=part.layer.folder, way_on="say rank=")
    return int(part.layer.pattern("rank_pattern", "r"))


def _truncated(delta: Tensor, rank: int) -> Tensor:
    u, s, v = torch.linalg.svd(delta.flatten(1), full_matrices=False)
    found: Tensor = ((u[:, :rank] * s[:rank]) @ v[:rank]).reshape(delta.shape)
    return found
