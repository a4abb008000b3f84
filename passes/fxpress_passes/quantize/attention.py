"""matmul, scale, mask, softmax, matmul ==> fxp.attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from fxpress_ir import Edit
from fxpress_ir.dyadic import Dyadic
from fxpress_ir.errors import PassError
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from .masks import conjuncts, is_given, is_triangle, joined
from .moved import is_constant, moved, source_of
from .recognized import Recognized
from .scales import AVERAGE_BITS, Grid, shift_limit
from .sequence import too_long

_aten, _fxp = torch.ops.aten, torch.ops.fxp
UNSEEN = -50.0
"""A score that becomes this or less, or gets it added, is hidden: exp(-50) is far below what 8 bits of an exponential hold."""
_EXPONENTIALS = 255
"""The largest exponential, in 8 bits."""


@dataclass(frozen=True)
class Scores:
    """The scores of an attention: ``x y * factor``, an additive constant and a mask.

    Attributes:
        site: the node whose value is quantised.
        product: the product of two activations.
        factor: the number that it is multiplied by.
        bias: an additive constant of the product's shape, or one that broadcasts to it.
        masks: bool, each True where it lets a key be seen.
        parts: the nodes that compute them.
    """

    site: fx.Node
    product: fx.Node
    factor: float
    bias: fx.Node | None
    masks: tuple[fx.Node, ...]
    parts: tuple[fx.Node, ...]


def attention(node: fx.Node) -> Recognized | str | None:
    """What a product of probabilities and values is; None where it is no such product, else why it has no integer form."""
    if node.target is not _aten.matmul.default:
        return None
    softmax, value = node.args[:2]
    if not isinstance(softmax, fx.Node) or softmax.target is not _aten.softmax.int or not isinstance(value, fx.Node):
        return None
    if arguments(softmax)["dim"] % softmax.meta["val"].dim() != softmax.meta["val"].dim() - 1:
        return "its softmax is not over the last dimension"
    if reason := too_long("keys", softmax.meta["val"].shape[-1]):
        return reason
    scores = _scores(arguments(softmax)["self"])
    if isinstance(scores, str):
        return scores
    parts = (softmax, *scores.parts)
    if any(len(part.users) != 1 for part in parts):
        return "its scores or probabilities are read by others too"
    query, keys = scores.product.args[:2]
    assert isinstance(query, fx.Node)
    assert isinstance(keys, fx.Node)
    if is_turned(keys) and len(keys.users) == 1:
        parts, keys = (*parts[:-1], keys, parts[-1]), arguments(keys)["self"]
    operands = (query, keys, value)
    return Recognized("attention", operands, parts=parts, scores=scores.site, bias=scores.bias, masks=scores.masks, factor=scores.factor)


def _scores(node: fx.Node) -> Scores | str:
    """The scores behind a softmax's operand, a quantiser among them or not."""
    parts: list[fx.Node] = []
    masks: list[fx.Node] = []
    bias: fx.Node | None = None
    while hides(node):
        parts.append(node)
        masks.append(arguments(node)["condition"])
        node = arguments(node)["self"]
    if not all(is_triangle(mask) or is_given(mask) for mask in conjuncts(masks)):
        return "its mask is computed"
    # as text, because a comparison of symbolic sizes would be remembered as a fact about them
    if any(str(part.meta["val"].shape) != str(node.meta["val"].shape) for part in parts):
        return "its mask is larger than its scores"
    site = node
    if node.target is _fxp.fake_quantize.default:
        parts.append(node)
        site = node = arguments(node)["x"]
    computed, constants = terms(node)
    if len(computed) > 1:
        return "what is added to its scores is computed"
    if len(constants) > 1:
        return "several constants are added to its scores"
    if computed and constants:
        parts.append(node)
        (node,), (bias,) = computed, constants
    factor = 1.0
    while node.target in (_aten.mul.Tensor, _aten.div.Tensor) and isinstance(node.args[1], (int, float)):
        parts.append(node)
        factor = factor * node.args[1] if node.target is _aten.mul.Tensor else factor / node.args[1]
        node = node.args[0]  # type: ignore[assignment]
    if node.target is not _aten.matmul.default:
        return f"its scores come from {node.target}"
    if not factor > 0:
        return f"its scores are multiplied by {factor:g}"
    return Scores(site, node, factor, bias, tuple(masks), (*parts, node))


def hides(node: fx.Node) -> bool:
    """Where a boolean is false, a score becomes one that is not seen."""
    return node.target is _aten.where.ScalarOther and arguments(node)["other"] <= UNSEEN


def terms(node: Any) -> tuple[list[fx.Node], list[fx.Node]]:
    """The terms of a sum of tensors: computed ones, constants."""
    if is_constant(node):
        return [], [node]
    if node.target is not _aten.add.Tensor or arguments(node)["alpha"] != 1 or not isinstance(arguments(node)["other"], fx.Node):
        return [node], []
    (left, right), (more, others) = (terms(arguments(node)[operand]) for operand in ("self", "other"))
    return left + more, right + others


def is_turned(node: fx.Node) -> bool:
    """The node swaps the last two dimensions."""
    if node.target is not _aten.transpose.int:
        return False
    named, rank = arguments(node), node.meta["val"].dim()
    return {named["dim0"] % rank, named["dim1"] % rank} == {rank - 2, rank - 1}


def exponentials(scale: float, one: int) -> Tensor:
    """``rn(one * exp(-scale * d))`` for d = 0 .. 255, float64 [256]."""
    return torch.round(one * torch.exp(-scale * torch.arange(256, dtype=torch.float64)))


def scores_grid(what: Recognized) -> Grid | None:
    """The grid of the scores in a simulated program, None where they are not quantised."""
    for part in what.parts:
        if part.target is _fxp.fake_quantize.default:
            named = arguments(part)
            return Grid(named["scale"], named["qmin"], named["qmax"])
    return None


def emit(edit: Edit, node: fx.Node, what: Recognized, inputs: list[tuple[fx.Node, Grid]], grid: Grid, dtype: torch.dtype) -> fx.Node:
    """The fused operator; multipliers are exact because the scales were snapped.

    Raises:
        PassError: the scores are not quantised.
    """
    scores = scores_grid(what)
    if scores is None:
        raise PassError("its scores are not quantised", where=f"to-integer, node {node.name}", way_on="quantise them")
    (query, s_q), (keys, s_k), (value, s_v) = ((x, held.scale) for x, held in inputs)
    if what.parts[-1].args[1] is what.operands[1]:
        keys = edit.call(_aten.transpose.int, keys, -2, -1, like=node)
    unit = s_q * s_k * what.factor
    mask, causal = joined(edit, what.masks, node)
    bias = None if what.bias is None else _bias(edit, node, what.bias, unit)
    inner = Dyadic.nearest(unit / scores.scale)
    outer = Dyadic.nearest(s_v / (1 << AVERAGE_BITS) / grid.scale, limit=shift_limit(grid))
    table = edit.add_tensor(f"{node.name}.exponentials", exponentials(scores.scale, _EXPONENTIALS).to(torch.uint8))
    parts = (mask, bias, table, inner.b, inner.c, outer.b, outer.c, grid.qmin, grid.qmax, causal, dtype)
    return edit.call(_fxp.attention.default, query, keys, value, *parts, like=node, name=f"{node.name}_out")


def _bias(edit: Edit, node: fx.Node, constant: fx.Node, unit: float) -> fx.Node | None:
    """An additive constant in steps of the scores' sums, None where it adds nothing."""
    steps = torch.round(edit.tensor(source_of(constant)).detach().double() / unit).clamp(-(2.0**30), 2.0**30).to(torch.int32)
    return moved(edit, constant, edit.add_tensor(f"{node.name}.bias", steps)) if bool(steps.any()) else None
