"""what hides keys, one boolean after the other ==> is_causal, and one boolean that is true where a key is seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from fxpress_ir import Edit
from fxpress_ir.ops import COMPARISONS, LOGIC_OPERATORS, SHAPE_OPERATORS, arguments
from torch import Tensor, fx

from .moved import is_constant, source_of

_aten = torch.ops.aten
_UNKNOWN = torch.empty(0)


def conjuncts(masks: Sequence[fx.Node]) -> list[fx.Node]:
    """The booleans that all have to be true, each once."""
    found: dict[fx.Node, None] = {}
    for mask in masks:
        if mask.target is _aten.logical_and.default:
            named = arguments(mask)
            found.update(dict.fromkeys(conjuncts([named["self"], named["other"]])))
        else:
            found[mask] = None
    return list(found)


def is_triangle(mask: fx.Node) -> bool:
    """The lower triangle of ones."""
    if mask.target is not _aten.tril.default or arguments(mask)["diagonal"] != 0:
        return False
    whole: fx.Node = arguments(mask)["self"]
    return whole.target is _aten.ones.default


def is_given(mask: fx.Node) -> bool:
    """An input or a tensor of the program, or what shapes, comparisons and logic make of such in integers and booleans."""
    # what an edit has just made has no fake value yet; sizes have no tensor
    if mask.op in ("get_attr", "placeholder"):
        return "val" not in mask.meta or not mask.meta["val"].is_floating_point()
    read = [used for used in mask.all_input_nodes if isinstance(used.meta.get("val", _UNKNOWN), Tensor)]
    booleans = [used.meta["val"].dtype == torch.bool for used in read if "val" in used.meta]
    if mask.target in COMPARISONS:
        fits = type(arguments(mask)["other"]) is int and not any(booleans)
    else:
        fits = mask.target in SHAPE_OPERATORS or (mask.target in LOGIC_OPERATORS and all(booleans))
    return fits and all(map(is_given, read))


def joined(edit: Edit, masks: Sequence[fx.Node], node: fx.Node) -> tuple[fx.Node | None, bool]:
    """What the attention `node` sees: a mask, None where every key is seen, and whether later keys are hidden besides.

    Masks are joined at the insertion point; a join that stands before `node` already is read again.
    """
    parts = [mask for mask in conjuncts(masks) if not (is_constant(mask) and bool(edit.tensor(source_of(mask)).all()))]
    apart = [mask for mask in parts if not is_triangle(mask) and not _is_triangular(edit, mask)]
    together: fx.Node | None = None
    for mask in apart:
        together = mask if together is None else _join(edit, together, mask, node)
    return together, len(apart) < len(parts)


def _is_triangular(edit: Edit, mask: fx.Node) -> bool:
    """The beginning of a lower triangle of ones, as long as it is wide."""
    source = mask
    while source.target in (_aten.slice.Tensor, _aten.unsqueeze.default):
        named = arguments(source)
        last = named["dim"] % source.meta["val"].dim() >= source.meta["val"].dim() - 2
        begins = source.target is _aten.slice.Tensor and not named["start"] and named["step"] == 1
        if last is not begins:
            return False
        source = named["self"]
    if source.op != "get_attr" or source.meta["val"].dim() < 2:
        return False
    table = edit.tensor(source)
    # as text, because a comparison of symbolic sizes would be remembered as a fact about them
    rows, columns = map(str, mask.meta["val"].shape[-2:])
    square = rows == columns != "1" and table.shape[-2] == table.shape[-1] and table.numel() == table.shape[-1] ** 2
    return square and torch.equal(table.reshape(table.shape[-2:]), torch.ones_like(table).reshape(table.shape[-2:]).tril())


def _join(edit: Edit, mask: fx.Node, other: fx.Node, node: fx.Node) -> fx.Node:
    """Of as many dimensions both, as kernels want them."""
    ranks = [_rank(part) for part in (mask, other)]
    spread = []
    for part, rank in zip((mask, other), ranks, strict=True):
        for _ in range(max(ranks) - rank):
            part = _once(edit, node, _aten.unsqueeze.default, part, 0)
        spread.append(part)
    return _once(edit, node, _aten.logical_and.default, *spread)


def _rank(mask: fx.Node) -> int:
    """Joins made here have no fake value yet."""
    known = mask.meta.get("val")
    return known.dim() if isinstance(known, Tensor) else max(map(_rank, mask.all_input_nodes)) + (mask.target is _aten.unsqueeze.default)


def _once(edit: Edit, node: fx.Node, target: Any, *args: Any) -> fx.Node:
    known = (user for user in args[0].users if user.target is target and user.args == args and not user.kwargs)
    return next((user for user in known if user < node), None) or edit.call(target, *args, like=node)
