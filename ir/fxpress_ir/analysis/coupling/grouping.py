"""float Program ==> its groups: labels are solved into atoms, atoms are sorted by where they are, groups are named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import fx

from ...errors import ProgramError
from .groups import Group, Groups, Site
from .ties import Ids, Ties, first_reasons
from .walk import Walk, walk

if TYPE_CHECKING:
    from ...program import Program


def coupled_groups(program: Program) -> Groups:
    """Which dimensions of which tensors of a float program must shrink together.

    Raises:
        ProgramError: the program is not a float one.
    """
    if program.stage != "float":
        what = f"coupled dimensions are read off a float program, and this one is {program.stage}"
        raise ProgramError(what, way_on="prune before quantizing")
    program.check_unchanged()
    if "coupled_groups" not in program._cache:
        program._cache["coupled_groups"] = _grouped(program)
    groups: Groups = program._cache["coupled_groups"]
    return groups


def _grouped(program: Program) -> Groups:
    found, roots = walk(program)
    labels = {node: _rooted(value, roots) for node, value in found.values.items()}
    tensors = {name: _rooted(value, roots) for name, value in found.tensors.items()}
    members = _classes(labels, tensors, _roles(found.ties, roots), len(roots))
    names = _names(found, roots)
    held, lost = (first_reasons(noted, roots) for noted in (found.ties.pins, found.ties.losses))
    sites = _sites(tensors)
    producers, consumers = (_nodes(noted, roots) for noted in (found.ties.producers, found.ties.consumers))
    reasons = {atoms[0]: _reason(atoms, held) for atoms in members}
    groups: dict[str, Group] = {}
    order = {atom: place for place, atom in enumerate(names)}
    members = [atoms for atoms in members if atoms[0] in order and atoms[0] in sites]  # no layer makes or takes a window's places
    for atoms in sorted(members, key=lambda atoms: (bool(reasons[atoms[0]]), order[atoms[0]])):
        first = atoms[0]
        name = _unique(names[first], groups)
        makes, takes = producers.get(first, ()), consumers.get(first, ())
        groups[name] = Group(name, len(atoms), sites[first], makes, takes, reasons[first], lost.get(first, ""), tuple(atoms))
    return Groups(program.hash, groups, labels, tensors)


def _reason(atoms: Sequence[int], held: Mapping[int, str]) -> str:
    """Why atoms cannot leave; empty where they can."""
    return next((held[atom] for atom in atoms if atom in held), "it is a single atom" if len(atoms) < 2 else "")


def _rooted(value: Any, roots: Ids) -> Any:
    """A value's dimensions as atoms, None for what stays."""
    if isinstance(value, list):
        return [_rooted(one, roots) for one in value]
    if value is None:
        return None
    return tuple(None if isinstance(axis.labels, str) else roots[axis.labels] for axis in value)


def _roles(ties: Ties, roots: Ids) -> list[Ids]:
    return [np.unique(roots[labels]) for labels, _ in (*ties.producers, *ties.consumers, *ties.pins, *ties.losses)]


def _classes(labels: Mapping[fx.Node, Any], tensors: Mapping[str, Any], roles: Sequence[Ids], count: int) -> list[list[int]]:
    """Atoms apart wherever a dimension of a value holds another number of them: partition refinement."""
    kind, made, seen = np.zeros(count, np.int64), 1, np.zeros(count, bool)

    def refine(found: Ids) -> None:
        nonlocal made
        atoms, counts = np.unique(found, return_counts=True)
        _, kinds = np.unique(kind[atoms] * (int(counts.max()) + 1) + counts, return_inverse=True)
        kind[atoms], seen[atoms] = made + kinds, True
        made += int(kinds.max()) + 1

    values = [*tensors.values(), *(one for value in labels.values() for one in (value if isinstance(value, list) else [value]))]
    for found in [dimension for value in values for dimension in value or () if dimension is not None] + list(roles):
        if len(found):
            refine(found)
    members: dict[int, list[int]] = {}
    for atom in np.flatnonzero(seen).tolist():
        members.setdefault(int(kind[atom]), []).append(atom)
    return list(members.values())


def _sites(tensors: Mapping[str, tuple[Ids | None, ...]]) -> dict[int, tuple[Site, ...]]:
    found: dict[int, list[Site]] = {}
    for name, dimensions in tensors.items():
        for dim, labels in enumerate(dimensions):
            if labels is not None:
                for atom, count in zip(*(part.tolist() for part in np.unique(labels, return_counts=True)), strict=True):
                    found.setdefault(atom, []).append(Site(name, dim, count))
    return {atom: tuple(sites) for atom, sites in found.items()}


def _nodes(noted: Sequence[tuple[Ids, fx.Node]], roots: Ids) -> dict[int, tuple[str, ...]]:
    found: dict[int, dict[str, None]] = {}
    for labels, node in noted:
        for atom in np.unique(roots[labels]).tolist():
            found.setdefault(atom, {})[node.name] = None
    return {atom: tuple(names) for atom, names in found.items()}


def _names(found: Walk, roots: Ids) -> dict[int, str]:
    names: dict[int, str] = {}
    for noted, ending in ((found.ties.producers, ""), (found.ties.consumers, ".inputs")):
        for labels, node in noted:
            for atom in np.unique(roots[labels]).tolist():
                names.setdefault(atom, f"{_layer(node)}{ending}")
    return names


def _layer(node: fx.Node) -> str:
    """The name of the layer whose weight a node reads, its own where it reads none."""
    weights = [str(used.target) for used in node.all_input_nodes if used.op == "get_attr"]
    weight = next((name for name in weights if name.endswith("weight")), weights[0] if weights else node.name)
    return weight.removesuffix(".weight")


def _unique(name: str, taken: Mapping[str, Any]) -> str:
    unique, count = name, 1
    while unique in taken:
        count += 1
        unique = f"{name}#{count}"
    return unique
