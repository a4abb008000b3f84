"""selection ==> comparisons of integers, and, or, not: where it is 0 or true, a key is seen."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from fxpress_ir import Edit
from fxpress_ir.ops import COMPARISONS, SHAPE_OPERATORS, arguments
from torch import Tensor, fx

from .attention import UNSEEN
from .selections import PROBES, Atom, Selection, Selections, shape_of

_aten = torch.ops.aten
_TESTS: tuple[tuple[Any, int], ...] = ((_aten.ne.Scalar, 0), (_aten.eq.Scalar, 1), (_aten.ge.Scalar, 1))
"""What an integer mask may say of a key that is seen; of 0 and 1 all say the same."""
_OPPOSITE: dict[Any, Any] = {
    target: other
    for pair in ((_aten.eq.Scalar, _aten.ne.Scalar), (_aten.lt.Scalar, _aten.ge.Scalar), (_aten.le.Scalar, _aten.gt.Scalar))
    for target, other in (pair, pair[::-1])
}
_MASK = PROBES[:2]


@dataclass(frozen=True)
class Seen:
    """A boolean function: its atoms, the test of each that is an integer, and its table, over False and True of each."""

    atoms: tuple[Atom, ...]
    tests: tuple[tuple[Any, int] | None, ...]
    table: Tensor


def seen(selection: Selection, *, added: bool) -> Seen | None:
    """Where a key is seen; None where the selection is no mask.

    Args:
        added: to the scores, so that 0 lets a key be seen and what is `UNSEEN` or less hides it; else it is a boolean, true
            where a key is seen. Of integers but 0 and 1 a mask may make other numbers.
    """
    state = selection.table.double()
    state = torch.where(state == 0, 1, torch.where(state <= UNSEEN, 0, -1)) if added else state.long()
    choices = [(None,) if atom.is_boolean else _TESTS for atom in selection.atoms]
    for tests in product(*choices):
        table = _tabulated(selection, tests, state)
        if table is not None:
            return Seen(selection.atoms, tests, table)
    return None


def _tabulated(selection: Selection, tests: tuple[tuple[Any, int] | None, ...], state: Tensor) -> Tensor | None:
    """The table over what the tests say, where that decides."""
    values = [atom.values.tolist() for atom in selection.atoms]
    found: dict[tuple[bool, ...], int] = {}
    for place in product(*map(range, state.shape)):
        here = [atom[index] for atom, index in zip(values, place, strict=True)]
        one = int(state[place])
        if one < 0 and all(value in _MASK for value in here):
            return None
        said = tuple(_holds(test, value) for test, value in zip(tests, here, strict=True))
        if one >= 0 and found.setdefault(said, one) != one:
            return None
    cells = [found.get(said) for said in product((False, True), repeat=len(values))]
    return None if None in cells else torch.tensor(cells, dtype=torch.bool).reshape([2] * len(values))


def _holds(test: tuple[Any, int] | None, value: int) -> bool:
    return bool(value if test is None else test[0](torch.tensor(value), test[1]))


def _is_whole(number: Any) -> bool:
    return isinstance(number, (int, float)) and float(number).is_integer()


class Booleans:
    """Writes booleans into an edit, each once."""

    def __init__(self, edit: Edit, selections: Selections) -> None:
        self._edit, self._selections = edit, selections
        self._written: dict[Any, fx.Node] = {}
        self._ranks: dict[fx.Node, int] = {}

    def write(self, what: Seen) -> fx.Node | bool:
        """The boolean, True or False where it is the same everywhere."""
        atoms, tests, table = what.atoms, what.tests, what.table
        if bool(table.all()) or not bool(table.any()):
            return bool(table.all())
        for axis in range(len(atoms)):
            rest = [Seen((*atoms[:axis], *atoms[axis + 1 :]), (*tests[:axis], *tests[axis + 1 :]), table.select(axis, i)) for i in (0, 1)]
            if torch.equal(rest[0].table, rest[1].table):
                return self.write(rest[0])
            for side in (1, 0):
                if not bool(rest[1 - side].table.any()):
                    return self._joined(_aten.logical_and.default, self._literal(atoms[axis], tests[axis], side), self.write(rest[side]))
                if bool(rest[side].table.all()):
                    others = self.write(rest[1 - side])
                    return self._joined(_aten.logical_or.default, self._literal(atoms[axis], tests[axis], side), others)
        sides = [Seen(atoms, tests, table.clone()) for _ in (0, 1)]
        for side, part in enumerate(sides):
            part.table[1 - side] = False
        return self._joined(_aten.logical_or.default, *map(self.write, sides))

    def _joined(self, target: Any, left: fx.Node | bool, right: fx.Node | bool) -> fx.Node | bool:
        """Booleans of as many dimensions, as kernels want them."""
        neutral = target is _aten.logical_and.default
        parts = [part for part in (left, right) if isinstance(part, fx.Node)]
        if len(parts) == 2:
            rank = max(self._ranks[part] for part in parts)
            together = self._once(target, *(self._spread(part, rank) for part in parts))
            self._ranks[together] = rank
            return together
        other = right if isinstance(left, fx.Node) else left
        return (parts[0] if parts else neutral) if other is neutral else not neutral

    def _literal(self, atom: Atom, test: tuple[Any, int] | None, side: int) -> fx.Node:
        """The atom, or what it is not: a comparison or a constant is turned round."""
        target, number = test or (None, 0)
        node = atom.node
        if node.target in COMPARISONS and _is_whole(arguments(node)["other"]):
            target, node, number = node.target, arguments(node)["self"], int(arguments(node)["other"])
        if target is not None:
            literal = self._once(target if side else _OPPOSITE[target], node, number)
        elif node.op == "get_attr" and not side:
            literal = self._constant(node)
        else:
            literal = self._leaf(node)
            literal = literal if side else self._once(_aten.logical_not.default, literal)
        for move in atom.moves:
            literal = self._once(move.node.target, literal, *move.node.args[1:])
        self._ranks[literal] = len(atom.shape)
        return literal

    def _spread(self, boolean: fx.Node, rank: int) -> fx.Node:
        for _ in range(rank - self._ranks[boolean]):
            boolean = self._once(_aten.unsqueeze.default, boolean, 0)
        return boolean

    def _constant(self, node: fx.Node) -> fx.Node:
        """A tensor of the program, negated."""
        if node not in self._written:
            self._written[node] = self._edit.add_tensor(f"{node.target}.seen", ~self._edit.tensor(node))
        return self._written[node]

    def _leaf(self, node: fx.Node) -> fx.Node:
        """A boolean that moves what booleans of several shapes make; others are themselves."""
        if node.target not in SHAPE_OPERATORS:
            return node
        source: fx.Node = arguments(node)["self"]
        inner = self._selections.of(source)
        what = None if inner is None or inner.shape != shape_of(source) else seen(inner, added=False)
        written = None if what is None else self.write(what)
        return self._once(node.target, written, *node.args[1:]) if isinstance(written, fx.Node) else node

    def _once(self, target: Any, *args: Any) -> fx.Node:
        key = (target, *map(str, args))
        if key not in self._written:
            self._written[key] = self._edit.call(target, *args)
        return self._written[key]
