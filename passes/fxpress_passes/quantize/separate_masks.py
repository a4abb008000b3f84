"""softmax(x + c), c constant and -50 or lower in places ==> softmax(where(c > -50, x + (c there, else 0), lowest))."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from fxpress_ir import Edit, Program
from fxpress_ir.ops import arguments
from torch import Tensor, fx

from ..contract import Close, Context, Pass, Promise
from .attention import SOFTMAXES, UNSEEN, added_mask, hides, terms
from .moved import moved, rows_of, source_of

_aten = torch.ops.aten
_LOWEST = torch.finfo(torch.float32).min


@dataclass(frozen=True)
class SeparateMasks(Pass):
    """Take constants that hide keys out of the sums that softmax reads: a grid that spans -100 has no steps left for scores.

    What one constant both hides and adds (a mask folded into a bias of relative positions) comes apart into the two. Where a
    query would see nothing the numbers decide among hidden keys, so such a mask is refused.
    """

    name: ClassVar[str] = "separate-masks"
    promise: ClassVar[Promise] = Close(1e-5, "a probability below exp(-50) becomes 0; sums are taken in another order")
    after: ClassVar[tuple[str, ...]] = ("fold-constants", "decompose-attention", "compose-masks")

    def apply(self, program: Program, context: Context) -> Program:
        found: list[tuple[fx.Node, fx.Node, list[fx.Node]]] = []
        for node in (node for target in SOFTMAXES for node in program.graph.find_nodes(op="call_function", target=target)):
            reader = _reader(node)
            computed, constants = terms(arguments(reader)["self"])
            hiding = [constant for constant in constants if not bool(_seen(_values(program, constant)).all())]
            if len(computed) != 1 or not hiding:
                continue
            reason = next((reason for mask in hiding if (reason := _refusal(node, mask, _values(program, mask)))), None)
            if reason:
                context.refuse(node, reason, "the mask stays a term of the scores")
            else:
                found.append((reader, computed[0], constants))
        if not found:
            return program
        edit = program.edit()
        apart = _Apart(edit)
        for reader, scores, constants in found:
            apart.rewrite(edit.here(reader), edit.here(scores), [edit.here(constant) for constant in constants])
        return edit.finish()


def _reader(softmax: fx.Node) -> fx.Node:
    """The first that reads the scores: the softmax, or what hides some of them from it already."""
    reader = softmax
    while hides(arguments(reader)["self"]) or added_mask(arguments(reader)["self"]) is not None:
        reader = arguments(reader)["self"]
    return reader


def _values(program: Program, chain: fx.Node) -> Tensor:
    return program.tensors[str(source_of(chain).target)].detach()


def _seen(values: Tensor) -> Tensor:
    return ~(values <= UNSEEN)  # NaN is no mask


def _refusal(softmax: fx.Node, mask: fx.Node, values: Tensor) -> str | None:
    rank = softmax.meta["val"].dim()
    if arguments(softmax)["dim"] % rank != rank - 1:
        return "it is not over the last dimension"
    if softmax.meta["val"].dtype != torch.float32:
        return f"it computes in {softmax.meta['val'].dtype}"
    seen, rows = _seen(values), rows_of(mask)
    # where rows are cut to the keys that there are, the first key is left at every length
    sees = seen.any(-1) if rows == "whole" else seen[..., 0] if rows == "cut" else torch.tensor(False)
    return None if bool(sees.all()) else "its mask may hide all keys of a query"


class _Apart:
    """Writes what constants hide and what they add into an edit, each once."""

    def __init__(self, edit: Edit) -> None:
        self._edit = edit
        self._written: dict[fx.Node, tuple[fx.Node | None, fx.Node | None]] = {}

    def rewrite(self, reader: fx.Node, scores: fx.Node, constants: list[fx.Node]) -> None:
        """Everything stands before the first that reads it."""
        summed: fx.Node = arguments(reader)["self"]
        with self._edit.graph.inserting_before(reader):
            masks = []
            for constant in constants:
                seen, added = self._apart(constant)
                scores = scores if added is None else self._edit.call(_aten.add.Tensor, scores, added, like=summed)
                masks += [] if seen is None else [seen]
            for mask in masks:
                scores = self._edit.call(_aten.where.ScalarOther, mask, scores, _LOWEST, like=summed)
        reader.replace_input_with(summed, scores)

    def _apart(self, constant: fx.Node) -> tuple[fx.Node | None, fx.Node | None]:
        """What is seen, None where all is; what is added, None where nothing but the mask is."""
        if constant not in self._written:
            self._written[constant] = self._write(constant)
        return self._written[constant]

    def _write(self, constant: fx.Node) -> tuple[fx.Node | None, fx.Node | None]:
        source = source_of(constant)
        values = self._edit.tensor(source).detach()
        seen = _seen(values)
        if bool(seen.all()):
            return None, constant
        mask = moved(self._edit, constant, self._edit.add_tensor(f"{source.target}.seen", seen))
        numbers = values.where(seen, 0.0)
        if not bool(numbers.any()):
            return mask, None
        return mask, moved(self._edit, constant, self._edit.add_tensor(f"{source.target}.added", numbers))
