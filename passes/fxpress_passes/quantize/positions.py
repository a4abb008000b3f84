"""cumsum(mask) - 1, masked_fill, times mask, clamp ... ==> fxp.positions of a boolean."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from fxpress_ir import Edit
from fxpress_ir.ops import COMPARISONS, arguments
from torch import Tensor, fx

from .booleans import Booleans, Seen, seen
from .masks import is_given
from .selections import Atom, Selection, Selections, shape_of

_aten, _fxp = torch.ops.aten, torch.ops.fxp
_INTEGERS = (torch.int32, torch.int64)
_CASTS = frozenset({_aten.to.dtype, _aten._to_copy.default, _aten.type_as.default})
_LEAST = -(1 << 30)


@dataclass(frozen=True)
class _Line:
    """max(slope * count + offset, least), slope 0 or 1."""

    slope: int = 1
    offset: int = 0
    least: int = _LEAST

    def plus(self, number: int) -> _Line:
        return _Line(self.slope, self.offset + number, max(self.least + number, _LEAST) if self.least > _LEAST else _LEAST)

    def at_least(self, number: int) -> _Line:
        return replace(self, least=max(self.least, number))


@dataclass(frozen=True)
class _Position:
    """What a node is where the mask, an atom of 0 and 1, is 0 and where it is 1, as functions of the count of ones up to there."""

    atom: Atom
    seen: Seen
    lines: tuple[_Line, _Line]


def compose_positions(edit: Edit) -> None:
    """Put an integer operator in the place of arithmetic on counts of a mask's ones. An integer mask holds 0 and 1."""
    selections = Selections(edit.tensors)
    found: dict[fx.Node, _Position] = {}
    for node in edit.graph.nodes:
        value = node.meta.get("val")
        if node.op == "call_function" and isinstance(value, Tensor) and value.dtype in _INTEGERS:
            position = _of(node, found, selections)
            if position is not None:
                found[node] = position
    booleans = Booleans(edit, selections)
    for node, position in found.items():
        hidden, shown = position.lines
        written = shown.slope == 1 and (hidden.slope == 0 or hidden == shown)
        if not written or node.meta["val"].dtype != torch.int64 or all(user in found for user in node.users):
            continue
        with edit.graph.inserting_before(node):
            mask = booleans.write(position.seen)
            if not isinstance(mask, fx.Node) or not is_given(mask):
                continue
            other = None if hidden.slope else max(hidden.offset, hidden.least)
            counted = edit.call(_fxp.positions.default, mask, shown.offset, shown.least, other, like=node)
        edit.replace(node, counted)


def _of(node: fx.Node, found: dict[fx.Node, _Position], selections: Selections) -> _Position | None:
    named, target = arguments(node), node.target
    source: Any = named.get("self")
    if target is _aten.cumsum.default:
        last = named["dim"] % node.meta["val"].dim() == node.meta["val"].dim() - 1
        return _counted(source, selections) if last and named["dtype"] in (None, torch.int64) else None
    if not isinstance(source, fx.Node) or source not in found or shape_of(source) != shape_of(node):
        return None
    position = found[source]
    if target in _CASTS:
        return position
    if target in (_aten.add.Tensor, _aten.sub.Tensor) and type(named["other"]) is int and named["alpha"] == 1:
        number = named["other"] if target is _aten.add.Tensor else -named["other"]
        return _with(position, *(line.plus(number) for line in position.lines))
    if target in (_aten.clamp.default, _aten.clamp_min.default) and named.get("max") is None and type(named["min"]) is int:
        return _with(position, *(line.at_least(named["min"]) for line in position.lines))
    if target is _aten.mul.Tensor and isinstance(named["other"], fx.Node):
        values = _values(named["other"], position.atom, selections)
        if values is not None and set(values) <= {0, 1}:
            return _with(position, *(line if value else _Line(0) for line, value in zip(position.lines, values, strict=True)))
    if target is _aten.masked_fill.Scalar and type(named["value"]) is int:
        values = _values(named["mask"], position.atom, selections)
        if values is not None:
            filled = _Line(0, named["value"])
            return _with(position, *(filled if value else line for line, value in zip(position.lines, values, strict=True)))
    return None


def _with(position: _Position, hidden: _Line, shown: _Line) -> _Position:
    return replace(position, lines=(hidden, shown))


def _counted(source: fx.Node, selections: Selections) -> _Position | None:
    """A boolean, or an integer that is 0 and 1, of the whole shape."""
    selection = None if source.meta["val"].is_floating_point() else selections.of(source)
    if selection is None or len(selection.atoms) != 1 or selection.table[:2].tolist() != [0, 1] or selection.shape != shape_of(source):
        return None
    boolean = seen(Selection(selection.atoms, selection.table != 0), added=False)
    return None if boolean is None else _Position(selection.atoms[0], boolean, (_Line(), _Line()))


def _values(node: fx.Node, atom: Atom, selections: Selections) -> tuple[Any, Any] | None:
    """What a node is where `atom` is 0 and where it is 1."""
    if node.meta["val"].is_floating_point() or shape_of(node) != atom.shape:
        return None
    selection = selections.of(node)
    if selection is not None and selection.atoms == (atom,):
        first, second = selection.table[:2].tolist()
        return first, second
    if node.target in COMPARISONS:
        values = _values(arguments(node)["self"], atom, selections)
        compared = None if values is None else node.target(torch.tensor(values), arguments(node)["other"]).tolist()
        return None if compared is None else (compared[0], compared[1])
    return None
