"""f(booleans), elementwise, however many operators it is written in ==> the booleans and the table of f."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from fxpress_ir.ops import COMPARISONS, SHAPE_OPERATORS, arguments
from torch import Tensor, fx
from torch.fx.node import map_arg

_aten = torch.ops.aten
_COMPARING = frozenset(comparison.overloadpacket for comparison in COMPARISONS)
_POINTWISE = frozenset({_aten.to, _aten._to_copy, _aten.__and__, _aten.__or__, _aten.__xor__, _aten.where, _aten.masked_fill})
"""Those without the tag ``pointwise``, in some overload."""
_FILLED: dict[Any, str | int] = {
    **dict.fromkeys((_aten.full, _aten.full_like, _aten.new_full), "fill_value"),
    **dict.fromkeys((_aten.zeros, _aten.zeros_like, _aten.new_zeros), 0),
    **dict.fromkeys((_aten.ones, _aten.ones_like, _aten.new_ones), 1),
    _aten.scalar_tensor: "s",
}
PROBES = (0, 1, 2, 3, -1)
"""The values of an integer at which a function of it is looked at; a mask's own are the first two."""
_MOST = 1 << 10
"""Entries of a table."""


@dataclass(frozen=True)
class Move:
    """A shape operator of the graph; two that do the same are equal."""

    does: str
    node: fx.Node = field(compare=False)

    @classmethod
    def of(cls, node: fx.Node) -> Move:
        return cls(f"{node.target}{node.args[1:]}{node.kwargs}", node)


@dataclass(frozen=True)
class Atom:
    """A boolean of the graph, or an integer at `PROBES`, moved by shape operators afterwards."""

    node: fx.Node
    moves: tuple[Move, ...] = ()

    @property
    def values(self) -> Tensor:
        """What it may be, in its own type."""
        dtype = self.node.meta["val"].dtype
        if dtype == torch.bool:
            return torch.tensor([False, True])
        return torch.tensor([probe for probe in PROBES if probe >= torch.iinfo(dtype).min], dtype=dtype)

    @property
    def is_boolean(self) -> bool:
        return bool(self.node.meta["val"].dtype == torch.bool)

    @property
    def shape(self) -> tuple[str, ...]:
        return shape_of(self.moves[-1].node if self.moves else self.node)


@dataclass(frozen=True)
class Selection:
    """A value that is decided element by element: `table` has a dimension for each atom, over its values, and depends on each."""

    atoms: tuple[Atom, ...]
    table: Tensor

    @property
    def shape(self) -> tuple[str, ...]:
        """What the atoms are broadcast to."""
        shape: tuple[str, ...] = ()
        for atom in self.atoms:
            rank = max(len(shape), len(atom.shape))
            sizes = [("1",) * (rank - len(part)) + part for part in (shape, atom.shape)]
            shape = tuple(other if size == "1" else size for size, other in zip(*sizes, strict=True))
        return shape


def shape_of(node: fx.Node) -> tuple[str, ...]:
    """As text, because a comparison of symbolic sizes would be remembered as a fact about them."""
    return tuple(map(str, node.meta["val"].shape))


class Selections:
    """The selections of a graph's values."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self._found: dict[fx.Node, Selection | None] = {}

    def of(self, node: fx.Node) -> Selection | None:
        """None for a float that is no function of booleans and integers, or of too many."""
        if node not in self._found:
            found = self._decided(node)
            exact = found is None and not node.meta["val"].is_floating_point()
            self._found[node] = _whole(Atom(node)) if exact else found
        return self._found[node]

    def _decided(self, node: fx.Node) -> Selection | None:
        if node.op == "get_attr":
            return _uniform(self._tensors[str(node.target)])
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            return None
        packet, named = node.target.overloadpacket, arguments(node)
        if packet in _FILLED:
            fill = _FILLED[packet]
            number = named[fill] if isinstance(fill, str) else fill
            return None if isinstance(number, fx.Node) else Selection((), torch.tensor(number, dtype=node.meta["val"].dtype))
        if node.target in SHAPE_OPERATORS:
            return self._moved(node, named["self"])
        return self._evaluated(node) if torch.Tag.pointwise in node.target.tags or packet in _POINTWISE else None

    def _moved(self, node: fx.Node, source: fx.Node) -> Selection | None:
        """Atoms of the whole shape are moved; repeating them is left to whoever reads them."""
        found = self.of(source)
        if found is None or not found.atoms or node.target is _aten.expand.default:
            return found
        if any(atom.shape != shape_of(source) for atom in found.atoms):
            return None
        return Selection(tuple(Atom(atom.node, (*atom.moves, Move.of(node))) for atom in found.atoms), found.table)

    def _evaluated(self, node: fx.Node) -> Selection | None:
        """The operator, called on the tables of its operands. Comparisons of integers are atoms of their own."""
        operands = [used for used in node.all_input_nodes if isinstance(used.meta.get("val"), Tensor)]
        if len(operands) < len(node.all_input_nodes):
            return None
        parts: dict[fx.Node, Selection] = {}
        for used in operands:
            part = self.of(used)
            if part is None:
                return None
            parts[used] = part
        atoms = tuple(dict.fromkeys(atom for part in parts.values() for atom in part.atoms))
        if prod(len(atom.values) for atom in atoms) > _MOST or _looks_at_integers(node, list(parts.values())):
            return None
        tables = {used: _along(part, atoms) for used, part in parts.items()}
        args, kwargs = map_arg((node.args, node.kwargs), tables.__getitem__)
        with torch.no_grad():
            result: Tensor = node.target(*args, **kwargs)  # type: ignore[operator]
        if result.dtype != node.meta["val"].dtype:
            return None
        found = _needed(atoms, result.expand([len(atom.values) for atom in atoms]))
        lost = result.dtype == torch.bool and any(not atom.is_boolean for atom in set(atoms) - set(found.atoms))
        return None if lost else found  # a test of an integer that the probes do not tell apart


def _looks_at_integers(node: fx.Node, parts: Sequence[Selection]) -> bool:
    """A comparison, which may tell integers apart that no probe stands for."""
    integers = any(not atom.is_boolean for part in parts for atom in part.atoms)
    return integers and node.target.overloadpacket in _COMPARING  # type: ignore[union-attr]


def _whole(atom: Atom) -> Selection:
    return Selection((atom,), atom.values)


def _uniform(value: Tensor) -> Selection | None:
    if not value.numel() or not bool((value == value.reshape(-1)[0]).all()):
        return None
    return Selection((), value.detach().reshape(-1)[0])


def _along(part: Selection, atoms: Sequence[Atom]) -> Tensor:
    """The table with a dimension for each of `atoms`, of size 1 for those that it does not depend on."""
    order = [part.atoms.index(atom) for atom in atoms if atom in part.atoms]
    return part.table.permute(order).reshape([len(atom.values) if atom in part.atoms else 1 for atom in atoms])


def _needed(atoms: Sequence[Atom], table: Tensor) -> Selection:
    """Without the atoms on which nothing depends."""
    kept = list(atoms)
    for atom in atoms:
        axis = kept.index(atom)
        first = table.select(axis, 0)
        if torch.equal(table, first.unsqueeze(axis).expand_as(table)):
            table = first
            kept.remove(atom)
    return Selection(tuple(kept), table)
