"""What is known of an operator's operands ==> which elements of its result depend on the first position alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from fxpress_ir.analysis.cones import ELEMENTWISE
from fxpress_ir.ops import COMPARISONS, LOGIC_OPERATORS, arguments
from torch import Tensor, fx

_aten = torch.ops.aten
_ALIKE = frozenset({*ELEMENTWISE, *COMPARISONS, *LOGIC_OPERATORS, _aten.where.self, _aten.where.ScalarOther, _aten.masked_fill.Scalar})
_CHOICES = frozenset({_aten.where.ScalarOther, _aten.masked_fill.Scalar})
_PER_CHANNEL = frozenset({_aten.batch_norm.default, _aten.prelu.default})
_NORMS = frozenset({_aten.layer_norm.default, _aten.rms_norm.default})
UNSEEN = -1e8
"""A score that becomes this or less, or gets it added, has the exponential 0 beside one that did not."""


@dataclass(frozen=True)
class Known:
    """What is known of a value's elements, each bool and of the value's shape.

    Attributes:
        first: they depend on the first position alone, or on no input.
        value: the value itself where no input reaches it.
        unseen: as scores they are UNSEEN or less.
        zero: they are 0, whatever the inputs are.
    """

    first: Tensor
    value: Tensor | None = None
    unseen: Tensor | None = None
    zero: Tensor | None = None


Of = Callable[[fx.Node], Known]


def _alike(node: fx.Node, known: Of, shape: list[int]) -> Known:
    """Element by element, operands broadcast."""
    operands = [used for used in node.all_input_nodes if isinstance(used.meta.get("val"), Tensor)]
    if node.target in _PER_CHANNEL:  # the others are constants along the second dimension
        if any(known(used).value is None for used in operands[1:]):
            return Known(torch.zeros(shape, dtype=torch.bool))
        operands = operands[:1]
    first, unseen = torch.ones(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    for operand in map(known, operands):
        first = first & operand.first
        if operand.unseen is not None and node.target is _aten.add.Tensor:
            unseen = unseen | operand.unseen
        if operand.value is not None and operand.value.is_floating_point() and node.target is _aten.add.Tensor:
            unseen = unseen | (operand.value <= UNSEEN)
    if node.target in _CHOICES:
        named = arguments(node)
        chosen, filled = (known(named["condition"]).value, named["other"]) if "condition" in named else _filled(known, named)
        scores = known(named["self"])
        if chosen is not None:
            first = scores.first | ~chosen
            unseen = chosen & (unseen if scores.unseen is None else scores.unseen) | (~chosen & bool(filled <= UNSEEN))
    return Known(first.expand(shape), unseen=unseen.expand(shape))


def _filled(known: Of, named: dict[str, Any]) -> tuple[Tensor | None, float]:
    """Where a fill leaves the value, None where that is not known, and what it puts elsewhere."""
    mask = known(named["mask"]).value
    return None if mask is None else ~mask, named["value"]


def _linear(node: fx.Node, known: Of, shape: list[int]) -> Known:
    """A row of the result is one of the operand's."""
    named = arguments(node)
    if any(part is not None and known(part).value is None for part in (named["weight"], named["bias"])):
        return Known(torch.zeros(shape, dtype=torch.bool))
    return Known(known(named["input"]).first.all(-1, keepdim=True).expand(shape))


def _norm(node: fx.Node, known: Of, shape: list[int]) -> Known:
    named = arguments(node)
    if any(part is not None and known(part).value is None for part in (named["weight"], named.get("bias"))):
        return Known(torch.zeros(shape, dtype=torch.bool))
    first = known(named["input"]).first
    for dim in range(1, len(named["normalized_shape"]) + 1):
        first = first.all(-dim, keepdim=True)
    return Known(first.expand(shape))


def _mean(node: fx.Node, known: Of, shape: list[int]) -> Known:
    named = arguments(node)
    first = known(named["self"]).first
    for dim in sorted((dim % first.dim() for dim in named["dim"] or range(first.dim())), reverse=True):
        first = first.all(dim, keepdim=bool(named["keepdim"]))
    return Known(first)


def _embedding(node: fx.Node, known: Of, shape: list[int]) -> Known:
    named = arguments(node)
    if known(named["weight"]).value is None:
        return Known(torch.zeros(shape, dtype=torch.bool))
    return Known(known(named["indices"]).first.unsqueeze(-1).expand(shape))


def _softmax(node: fx.Node, known: Of, shape: list[int]) -> Known:
    """What is unseen beside something seen is 0 and changes nothing; where all is unseen, nothing is."""
    scores, dim = known(arguments(node)["self"]), arguments(node)["dim"]
    unseen = torch.zeros_like(scores.first) if scores.unseen is None else scores.unseen
    zero = unseen & ~unseen.all(dim, keepdim=True)
    first = (scores.first | zero).all(dim, keepdim=True)
    return Known(first.expand(shape), zero=zero)


def _matmul(node: fx.Node, known: Of, shape: list[int]) -> Known:
    """A sum depends on what its factors do; where the left one is 0, on nothing."""
    left, right = (known(operand) for operand in node.args[:2])  # type: ignore[arg-type]
    if left.first.dim() < 2 or right.first.dim() < 2:
        return Known(torch.zeros(shape, dtype=torch.bool))
    counts = torch.ones_like(left.first) if left.zero is None else ~left.zero
    others = (counts & ~left.first).any(-1, keepdim=True)
    reached = counts.double() @ (~right.first).double()
    return Known((reached == 0) & ~others)


RULES: dict[Any, Callable[[fx.Node, Of, list[int]], Known]] = {
    **dict.fromkeys(_ALIKE, _alike),
    _aten.linear.default: _linear,
    **dict.fromkeys(_NORMS, _norm),
    _aten.mean.dim: _mean,
    _aten.embedding.default: _embedding,
    **dict.fromkeys((_aten.softmax.int, _aten._safe_softmax.default), _softmax),
    _aten.matmul.default: _matmul,
}
"""What is known of an operator's result of a shape, by what is known of its operands."""
