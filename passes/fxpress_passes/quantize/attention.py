"""matmul, scale, mask, softmax, matmul ==> fxp.attention."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from fxpress_ir import Edit
from fxpress_ir.dyadic import Dyadic
from fxpress_ir.errors import PassError
from fxpress_ir.ops import SHAPE_OPERATORS, UNSEEN_ROWS, arguments
from torch import Tensor, fx

from .masks import conjuncts, is_given, is_triangle, joined
from .moved import is_constant, moved, source_of
from .recognized import Recognized
from .scales import AVERAGE_BITS, Grid, shift_limit
from .sequence import too_long

_aten, _fxp = torch.ops.aten, torch.ops.fxp
SOFTMAXES = (_aten.softmax.int, _aten._safe_softmax.default)
"""They differ in rows of -inf alone, of which the second makes zeros."""
UNSEEN = -50.0
"""A score that becomes this or less, or gets it added, is hidden: exp(-50) is far below what 8 bits of an exponential hold."""
_COMPUTED = "what is added to its scores is computed"
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
        unseen: what a query that sees nothing gives, as `fxp::attention` names it.
        parts: the nodes that compute them.
    """

    site: fx.Node
    product: fx.Node
    factor: float
    bias: fx.Node | None
    masks: tuple[fx.Node, ...]
    unseen: str
    parts: tuple[fx.Node, ...]


def attention(node: fx.Node) -> Recognized | str | None:
    """What a product of probabilities and values is; None where it is no such product, else why it has no integer form."""
    if node.target is not _aten.matmul.default:
        return None
    softmax, value = node.args[:2]
    if not isinstance(softmax, fx.Node) or softmax.target not in SOFTMAXES or not isinstance(value, fx.Node):
        return None
    if arguments(softmax)["dim"] % softmax.meta["val"].dim() != softmax.meta["val"].dim() - 1:
        return "its softmax is not over the last dimension"
    if reason := too_long("keys", softmax.meta["val"].shape[-1]):
        return reason
    scores = _scores(softmax)
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
    named = {"scores": scores.site, "bias": scores.bias, "masks": scores.masks, "unseen": scores.unseen, "factor": scores.factor}
    return Recognized("attention", operands, parts=parts, **named)  # type: ignore[arg-type]


def _scores(softmax: fx.Node) -> Scores | str:
    """The scores behind a softmax, a quantiser among them or not."""
    node: fx.Node = arguments(softmax)["self"]
    parts: list[fx.Node] = []
    hiding: list[fx.Node] = []
    bias: fx.Node | None = None
    while hides(node) or added_mask(node) is not None:
        parts.append(node)
        hiding.append(added_mask(node) or node)
        node = arguments(node)["self"]
    masks = tuple(arguments(mask)["condition"] for mask in hiding)
    if not all(is_triangle(mask) or is_given(mask) for mask in conjuncts(masks)):
        return "its mask is computed"
    # as text, because a comparison of symbolic sizes would be remembered as a fact about them
    if any(str(part.meta["val"].shape) != str(node.meta["val"].shape) for part in parts):
        return "its mask is larger than its scores"
    unseen = _unseen(softmax, hiding)
    if unseen not in UNSEEN_ROWS:
        return unseen
    parts += [mask for mask in hiding if mask not in parts]
    site = node
    if node.target is _fxp.fake_quantize.default:
        parts.append(node)
        site = node = arguments(node)["x"]
    computed, constants = terms(node)
    if len(computed) > 1:
        given = any(_moved_from(term).op == "placeholder" for term in computed)
        return "an input is added to its scores as floats, not as a boolean or integer mask" if given else _COMPUTED
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
    return Scores(site, node, factor, bias, masks, unseen, (*parts, node))


def _unseen(softmax: fx.Node, hiding: list[fx.Node]) -> str:
    """What the float program gives for a query that sees nothing, or why integers cannot; the lower triangle leaves each query a key."""
    apart = [mask for mask in hiding if not all(map(is_triangle, conjuncts([arguments(mask)["condition"]])))]
    added = [mask for mask in apart if mask.target is _aten.where.Scalar]
    if added:
        if len(apart) > 1 or any(map(is_triangle, conjuncts([arguments(added[0])["condition"]]))):
            return f"a mask of {arguments(added[0])['other']:g} is added to its scores and other masks hide keys too"
        return "unmasked"
    infinite = [arguments(mask)["other"] == -math.inf for mask in apart]
    if softmax.target is _aten.softmax.int or not any(infinite):
        return "mean"
    return "zero" if all(infinite) else "its masks hide keys with numbers and with -inf"


def _moved_from(node: fx.Node) -> fx.Node:
    """What shape operators move."""
    while node.target in SHAPE_OPERATORS:
        node = arguments(node)["self"]
    return node


def hides(node: fx.Node) -> bool:
    """Where a boolean is false, a score becomes one that is not seen."""
    return node.target is _aten.where.ScalarOther and arguments(node)["other"] <= UNSEEN


def added_mask(node: fx.Node) -> fx.Node | None:
    """The second term of a sum of scores and what is 0 where a boolean is true and `UNSEEN` or less where not."""
    term = arguments(node)["other"] if node.target is _aten.add.Tensor and arguments(node)["alpha"] == 1 else None
    if not isinstance(term, fx.Node) or term.target is not _aten.where.Scalar:
        return None
    named = arguments(term)
    return term if named["self"] == 0 and -math.inf < named["other"] <= UNSEEN else None


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
    parts: tuple[Any, ...] = (mask, bias, table, inner.b, inner.c, outer.b, outer.c, grid.qmin, grid.qmax, causal, dtype)
    if mask is not None and not _all_see(edit, mask, causal):
        parts = (*parts, what.unseen)
    return edit.call(_fxp.attention.default, query, keys, value, *parts, like=node, name=f"{node.name}_out")


def _all_see(edit: Edit, mask: fx.Node, causal: bool) -> bool:
    """A constant that leaves each query a key; in causal order the first one, which each query may see."""
    if mask.op != "get_attr":
        return False
    seen = edit.tensor(mask)[..., :1] if causal else edit.tensor(mask)
    return bool(seen.any(-1).all())


def _bias(edit: Edit, node: fx.Node, constant: fx.Node, unit: float) -> fx.Node | None:
    """An additive constant in steps of the scores' sums, None where it adds nothing."""
    steps = torch.round(edit.tensor(source_of(constant)).detach().double() / unit).clamp(-(2.0**30), 2.0**30).to(torch.int32)
    return moved(edit, constant, edit.add_tensor(f"{node.name}.bias", steps)) if bool(steps.any()) else None
