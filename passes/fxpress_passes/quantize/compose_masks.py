"""softmax(x + mask), mask a function of booleans, 0 or -50 and lower ==> softmax(where(boolean, x, lowest))."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from fxpress_ir import Program
from fxpress_ir.ops import arguments
from torch import fx

from ..contract import Close, Context, Pass, Promise
from .attention import UNSEEN, hides, terms
from .booleans import Booleans, Seen, seen
from .masks import conjuncts, is_given, is_triangle
from .selections import Selections, shape_of

_aten = torch.ops.aten
_STAYS = "the mask stays as it is"
_LOWEST = torch.finfo(torch.float32).min


@dataclass(frozen=True)
class ComposeMasks(Pass):
    """Make of masks what booleans say, whatever floats or fills they are written with: padding that an input names, above all.

    Elementwise operators between the inputs and the scores are evaluated for every value of the booleans that they read, and
    become comparisons of integers with numbers, and, or, not. An integer mask holds 0 and 1. A query that sees nothing averages
    all values, as it does where the lowest number is added to its scores.
    """

    name: ClassVar[str] = "compose-masks"
    promise: ClassVar[Promise] = Close(1e-5, "a probability below exp(-50) becomes 0; sums are taken in another order")
    after: ClassVar[tuple[str, ...]] = ("fold-positions", "decompose-index", "decompose-attention")

    def apply(self, program: Program, context: Context) -> Program:
        edit = program.edit()
        selections = Selections(edit.tensors)
        found: list[tuple[fx.Node, _Masked]] = []
        for node in edit.graph.find_nodes(op="call_function", target=_aten.softmax.int):
            masked = _peeled(arguments(node)["self"], selections)
            if masked is None or all(map(_is_written, masked.steps)):
                continue
            reason = _refusal(node, masked)
            if reason:
                context.refuse(node, reason, _STAYS)
            else:
                found.append((node, masked))
        booleans, fired = Booleans(edit, selections), False
        for node, masked in found:
            with edit.graph.inserting_before(node):
                conditions = [condition for mask in masked.masks if isinstance(condition := booleans.write(mask), fx.Node)]
                if not _are_written(conditions):
                    context.refuse(node, "its mask is computed by other operators than comparisons and logic", _STAYS)
                    continue
                scores = masked.rest[0]
                for term in masked.rest[1:]:
                    scores = edit.call(_aten.add.Tensor, scores, term, like=node)
                for condition in conditions:
                    scores = edit.call(_aten.where.ScalarOther, condition, scores, _LOWEST, like=node)
            node.replace_input_with(arguments(node)["self"], scores)
            fired = True
        return edit.finish() if fired else program


@dataclass(frozen=True)
class _Masked:
    """The terms of scores, the computed ones first, what lets keys be seen, and the operators that hide the others."""

    rest: tuple[fx.Node, ...]
    masks: tuple[Seen, ...]
    steps: tuple[fx.Node, ...]


def _refusal(softmax: fx.Node, masked: _Masked) -> str | None:
    whole = shape_of(arguments(softmax)["self"])
    if softmax.meta["val"].dtype != torch.float32:
        return f"it computes in {softmax.meta['val'].dtype}"
    if shape_of(masked.rest[0]) != whole:
        return f"its mask makes scores of shape {', '.join(whole)}"
    return None if all(bool(mask.table.any()) for mask in masked.masks) else "its mask hides all keys"


def _peeled(scores: fx.Node, selections: Selections) -> _Masked | None:
    """What is left of scores without masks; None where they have none."""
    masks: list[Seen] = []
    steps: list[fx.Node] = []
    while True:
        chosen = _chosen(scores, selections)
        if chosen is not None:
            masks, steps, scores = [*masks, chosen[0]], [*steps, scores], chosen[1]
            continue
        computed, constants = terms(scores)
        added = {term: mask for term in computed if (mask := _added(term, selections)) is not None}
        rest = [*(term for term in computed if term not in added), *constants]
        if not added or len(added) == len(computed):
            return _Masked((scores,), tuple(masks), tuple(steps)) if masks else None
        masks, steps = [*masks, *added.values()], [*steps, scores]
        if len(rest) > 1:
            return _Masked(tuple(rest), tuple(masks), tuple(steps))
        (scores,) = rest


def _added(term: fx.Node, selections: Selections) -> Seen | None:
    """A term of the scores that hides keys and adds nothing to others."""
    selection = selections.of(term)
    return None if selection is None else seen(selection, added=True)


def _chosen(node: fx.Node, selections: Selections) -> tuple[Seen, fx.Node] | None:
    """What lets keys be seen where a boolean chooses between scores and a number that hides; and the scores."""
    packet = node.target.overloadpacket if isinstance(node.target, torch._ops.OpOverload) else None
    if packet not in (_aten.where, _aten.masked_fill) or node.target is _aten.where.default:
        return None
    named = arguments(node)
    if packet is _aten.masked_fill:
        condition, sides = named["mask"], (named["value"], named["self"])
    else:
        condition, sides = named["condition"], (named["self"], named["other"])
    hidden = [_hides(side, selections) for side in sides]
    if hidden[0] == hidden[1]:
        return None
    selection, kept = selections.of(condition), sides[hidden.index(False)]
    mask = None if selection is None else seen(selection, added=False)
    if mask is None or not isinstance(kept, fx.Node):
        return None
    return (Seen(mask.atoms, mask.tests, ~mask.table) if hidden[0] else mask), kept


def _hides(side: Any, selections: Selections) -> bool:
    """A number, or a tensor that holds one, that a hidden score becomes."""
    if not isinstance(side, fx.Node):
        return bool(side <= UNSEEN)
    selection = selections.of(side) if side.meta["val"].is_floating_point() else None
    return selection is not None and not selection.atoms and bool(selection.table <= UNSEEN)


def _is_written(step: fx.Node) -> bool:
    """A boolean that integers know hides keys."""
    return hides(step) and _are_written([arguments(step)["condition"]])


def _are_written(conditions: Sequence[fx.Node]) -> bool:
    return all(is_triangle(part) or is_given(part) for part in conjuncts(conditions))
