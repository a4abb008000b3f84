"""softmax(x + mask), mask a function of booleans, 0 or -50 and lower ==> softmax(where(boolean, x, lowest or -inf))."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from fxpress_ir import Program
from fxpress_ir.ops import arguments
from torch import fx

from ..contract import Close, Context, Pass, Promise
from .attention import SOFTMAXES, UNSEEN, added_mask, hides, terms
from .booleans import Booleans, Seen, seen
from .masks import conjuncts, is_given, is_triangle
from .selections import Selections, shape_of

_aten = torch.ops.aten
_STAYS = "the mask stays as it is"
_LOWEST = torch.finfo(torch.float32).min
_SWALLOWS = -float(1 << 27)
"""Floats from here down are 16 and more apart, as scores are not: added to all of a row it leaves them equal."""


@dataclass(frozen=True)
class ComposeMasks(Pass):
    """Make of masks what booleans say, whatever floats or fills they are written with: padding that an input names, above all.

    Elementwise operators between the inputs and the scores are evaluated for every value of the booleans that they read, and
    become comparisons of integers with numbers, and, or, not. An integer mask holds 0 and 1. A query that sees nothing gives what it
    gave: 0 where -inf hides keys and the softmax makes zeros of that, the mean of all values where the number that hides is a fill or
    swallows the scores that it is added to, and where it does not (-10000), what there is without the mask: it stays a term, then.
    A plain softmax makes NaN of a row of -inf; the mean stands for it.
    """

    name: ClassVar[str] = "compose-masks"
    promise: ClassVar[Promise] = Close(1e-5, "a probability below exp(-50) becomes 0; sums are taken in another order")
    after: ClassVar[tuple[str, ...]] = ("fold-positions", "decompose-index", "decompose-attention")

    def apply(self, program: Program, context: Context) -> Program:
        edit = program.edit()
        selections = Selections(edit.tensors)
        found: list[tuple[fx.Node, _Masked]] = []
        for node in (node for target in SOFTMAXES for node in edit.graph.find_nodes(op="call_function", target=target)):
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
                written = [(booleans.write(mask.seen), mask) for mask in masked.masks]
                conditions = [(condition, mask) for condition, mask in written if isinstance(condition, fx.Node)]
                if not _are_written([condition for condition, _ in conditions]):
                    context.refuse(node, "its mask is computed by other operators than comparisons and logic", _STAYS)
                    continue
                scores = masked.rest[0]
                for term in masked.rest[1:]:
                    scores = edit.call(_aten.add.Tensor, scores, term, like=node)
                for condition, mask in conditions:
                    if mask.is_term and not is_triangle(condition):
                        term = edit.call(_aten.where.Scalar, condition, 0.0, mask.number)
                        scores = edit.call(_aten.add.Tensor, scores, term, like=node)
                    else:
                        lowest = mask.number if node.target is not _aten.softmax.int and mask.number == -math.inf else _LOWEST
                        scores = edit.call(_aten.where.ScalarOther, condition, scores, lowest, like=node)
            node.replace_input_with(arguments(node)["self"], scores)
            fired = True
        return edit.finish() if fired else program


@dataclass(frozen=True)
class _Mask:
    """Where keys are seen, and the number that others become or get added; of several numbers the one closest to 0."""

    seen: Seen
    number: float
    added: bool

    @property
    def is_term(self) -> bool:
        """Scores that it is added to still differ."""
        return self.added and self.number > _SWALLOWS


@dataclass(frozen=True)
class _Masked:
    """The terms of scores, the computed ones first, what lets keys be seen, and the operators that hide the others."""

    rest: tuple[fx.Node, ...]
    masks: tuple[_Mask, ...]
    steps: tuple[fx.Node, ...]


def _refusal(softmax: fx.Node, masked: _Masked) -> str | None:
    whole = shape_of(arguments(softmax)["self"])
    if softmax.meta["val"].dtype != torch.float32:
        return f"it computes in {softmax.meta['val'].dtype}"
    if shape_of(masked.rest[0]) != whole:
        return f"its mask makes scores of shape {', '.join(whole)}"
    return None if all(bool(mask.seen.table.any()) for mask in masked.masks) else "its mask hides all keys"


def _peeled(scores: fx.Node, selections: Selections) -> _Masked | None:
    """What is left of scores without masks; None where they have none."""
    masks: list[_Mask] = []
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


def _added(term: fx.Node, selections: Selections) -> _Mask | None:
    """A term of the scores that hides keys and adds nothing to others."""
    selection = selections.of(term)
    mask = None if selection is None else seen(selection, added=True)
    if selection is None or mask is None:
        return None
    numbers = selection.table[(slice(2),) * len(selection.atoms)]  # of integers only a mask's own, 0 and 1
    numbers = numbers[numbers <= UNSEEN]
    return _Mask(mask, float(numbers.max()) if numbers.numel() else -math.inf, True)


def _chosen(node: fx.Node, selections: Selections) -> tuple[_Mask, fx.Node] | None:
    """What lets keys be seen where a boolean chooses between scores and a number that hides; and the scores."""
    packet = node.target.overloadpacket if isinstance(node.target, torch._ops.OpOverload) else None
    if packet not in (_aten.where, _aten.masked_fill) or node.target is _aten.where.default:
        return None
    named = arguments(node)
    if packet is _aten.masked_fill:
        condition, sides = named["mask"], (named["value"], named["self"])
    else:
        condition, sides = named["condition"], (named["self"], named["other"])
    hidden = [_number(side, selections) for side in sides]
    if (hidden[0] is None) == (hidden[1] is None):
        return None
    selection, kept = selections.of(condition), sides[hidden.index(None)]
    mask = None if selection is None else seen(selection, added=False)
    if mask is None or not isinstance(kept, fx.Node):
        return None
    if hidden[0] is not None:
        return _Mask(Seen(mask.atoms, mask.tests, ~mask.table), hidden[0], False), kept
    assert hidden[1] is not None
    return _Mask(mask, hidden[1], False), kept


def _number(side: Any, selections: Selections) -> float | None:
    """What a hidden score becomes, given as a number or a tensor that holds one."""
    if not isinstance(side, fx.Node):
        return float(side) if side <= UNSEEN else None
    selection = selections.of(side) if side.meta["val"].is_floating_point() else None
    return float(selection.table) if selection is not None and not selection.atoms and bool(selection.table <= UNSEEN) else None


def _is_written(step: fx.Node) -> bool:
    """A boolean that integers know hides keys."""
    mask = step if hides(step) else added_mask(step)
    return mask is not None and _are_written([arguments(mask)["condition"]])


def _are_written(conditions: Sequence[fx.Node]) -> bool:
    return all(is_triangle(part) or is_given(part) for part in conjuncts(conditions))
