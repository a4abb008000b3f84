"""What the analysis says: groups of interchangeable atoms, where their entries are, and what forbids removal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import fx

from ...errors import ProgramError
from .ties import Ids


@dataclass(frozen=True)
class Site:
    """Dimension `dim` of a tensor of the program; each atom of the group covers `count` of its entries."""

    tensor: str
    dim: int
    count: int

    def __str__(self) -> str:
        return f"{self.tensor}[{self.dim}]" + ("" if self.count == 1 else f" x{self.count}")


@dataclass(frozen=True)
class Group:
    """Atoms that can stand for one another: each covers as many entries of the same dimensions of the same values.

    Attributes:
        name: the first layer that makes it, or ``layer.inputs`` where none does.
        size: how many atoms it has; they are numbered in the order of the first site.
        sites: the tensors' dimensions that shrink with it.
        producers, consumers: names of the nodes that make it, and that sum over it.
        unprunable: why its atoms cannot leave; empty where they can.
        inexact: why zeros in an atom's place are not the same as its removal (a norm counts it); empty where they are.
    """

    name: str
    size: int
    sites: tuple[Site, ...]
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    unprunable: str = ""
    inexact: str = ""
    _atoms: tuple[int, ...] = field(default=(), repr=False)

    @property
    def prunable(self) -> bool:
        return not self.unprunable

    @property
    def exact(self) -> bool:
        """Zeros in an atom's place give what its removal gives."""
        return not self.inexact


@dataclass(frozen=True, eq=False)
class Groups(Mapping[str, Group]):
    """The groups of one program, by name, those that can shrink first; prints as a table."""

    program_hash: str
    _groups: Mapping[str, Group]
    _labels: Mapping[fx.Node, Any] = field(repr=False)
    tensors: Mapping[str, tuple[Ids | None, ...]] = field(repr=False)
    """For each tensor and dimension the labels of its entries' atoms, int64 [size], None for what stays."""

    def __getitem__(self, name: str) -> Group:
        return self._groups[name]

    def group(self, name: str) -> Group:
        """The group of that name.

        Raises:
            ProgramError: there is none.
        """
        if name not in self._groups:
            raise ProgramError(f"there is no group {name!r}", way_on="str(groups) lists them")
        return self._groups[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def prunable(self) -> tuple[Group, ...]:
        return tuple(group for group in self._groups.values() if group.prunable)

    def indices(self, name: str, atom: int) -> dict[tuple[str, int], tuple[int, ...]]:
        """For each site (tensor, dimension) of a group, the entries that its atom number `atom` covers, ascending.

        Raises:
            ProgramError: there is no such group or atom.
        """
        group = self.group(name)
        if not 0 <= atom < group.size:
            raise ProgramError(f"has no atom {atom}", where=f"group {name!r}", way_on=f"it has {group.size}, counted from 0")
        found = {}
        for site in group.sites:
            labels = self.tensors[site.tensor][site.dim]
            assert labels is not None
            found[site.tensor, site.dim] = tuple(np.flatnonzero(labels == group._atoms[atom]).tolist())
        return found

    def labels(self, name: str) -> tuple[int, ...]:
        """The labels of a group's atoms, by their numbers."""
        return self.group(name)._atoms

    def dimensions(self, node: fx.Node) -> tuple[Ids | None, ...]:
        """For each dimension of a tensor's node the labels of its entries' atoms, None for what stays."""
        found: tuple[Ids | None, ...] = self._labels[node]
        return found

    def is_labelled(self, node: fx.Node) -> bool:
        """A call that a removal can reach: it or an operand has labels."""
        values = [self._labels.get(one) for one in (node, *node.all_input_nodes)]
        flat = [one for value in values for one in (value if isinstance(value, list) else [value])]
        return any(dimension is not None for value in flat for dimension in value or ())

    def __str__(self) -> str:
        rows = [("group", "atoms", "exact", "tensors", "removal")]
        for group in self._groups.values():
            sites = f"{group.sites[0]}, {len(group.sites) - 1} more" if len(group.sites) > 1 else str(group.sites[0])
            exact = "" if group.unprunable else "yes" if group.exact else "no"
            rows.append((group.name, str(group.size), exact, sites, group.unprunable or group.inexact or "possible"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
