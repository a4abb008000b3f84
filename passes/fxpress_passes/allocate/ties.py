"""decisions, groups that must choose alike ==> one unit a group, its losses and costs the sums of its members'."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from fxpress_ir.errors import PassError

from .problem import WHERE, Choice, Pair, Problem, Unit


def tie(problem: Problem, groups: Iterable[Sequence[str]]) -> Problem:
    """The problem in which the units of a group choose alike; groups that share a unit are one.

    A tied unit keeps the choices that all of its members have, in the order of the first, and the first one's name and place.
    Pairs between its members become part of the choices.

    Args:
        groups: names of units, or of what units stand for.

    Raises:
        PassError: a group names no unit, or its members have no choice in common.
    """
    joined = union((unit.name for unit in problem.units), (_names(problem, group) for group in groups))
    first = {name: group[0] for group in joined for name in group}
    units = {unit.name: unit for unit in problem.units}
    inner = [pair for pair in problem.pairs if first[pair.first[0]] == first[pair.second[0]]]
    outer = [pair for pair in problem.pairs if first[pair.first[0]] != first[pair.second[0]]]
    merged = tuple(_merged([units[name] for name in group], inner) for group in joined)
    kept = {(unit.name, choice.name) for unit in merged for choice in unit.choices}
    moved = [replace(pair, first=(first[pair.first[0]], pair.first[1]), second=(first[pair.second[0]], pair.second[1])) for pair in outer]
    return replace(problem, units=merged, pairs=tuple(pair for pair in moved if {pair.first, pair.second} <= kept))


def union(names: Iterable[str], groups: Iterable[Sequence[str]]) -> list[list[str]]:
    """Every name once, those of groups that meet together; in the order of `names`."""
    place = {name: index for index, name in enumerate(names)}
    root = list(range(len(place)))

    def find(index: int) -> int:
        while root[index] != index:
            root[index] = root[root[index]]
            index = root[index]
        return index

    for group in groups:
        for name in group[1:]:
            one, other = sorted((find(place[group[0]]), find(place[name])))
            root[other] = one
    found: dict[int, list[str]] = {}
    for name, index in place.items():
        found.setdefault(find(index), []).append(name)
    return list(found.values())


def _names(problem: Problem, group: Sequence[str]) -> list[str]:
    owner = {member: unit.name for unit in problem.units for member in (*unit.members, unit.name)}
    for name in group:
        if name not in owner:
            known = ", ".join(unit.name for unit in problem.units)
            raise PassError(f"a tie names {name!r}, which is no unit", where=WHERE, way_on=f"one of {known}")
    return [owner[name] for name in group]


def _merged(units: Sequence[Unit], pairs: Sequence[Pair]) -> Unit:
    if len(units) == 1:
        return units[0]
    choices = [{choice.name: choice for choice in unit.choices} for unit in units]
    alike = [name for name in choices[0] if all(name in others for others in choices[1:])]
    names = {unit.name for unit in units}
    inside = [pair for pair in pairs if {pair.first[0], pair.second[0]} <= names and pair.first[1] == pair.second[1]]
    barred = {pair.first[1] for pair in inside if pair.forbidden}
    kept = [name for name in alike if name not in barred]
    if not kept:
        tied = ", ".join(unit.name for unit in units)
        raise PassError(f"{tied} are tied and have no choice in common", where=WHERE, way_on="give them one choice that all can take")
    merged = tuple(_sum([*(given[name] for given in choices), *_extras(name, inside)]) for name in kept)
    return Unit(units[0].name, merged, tuple(member for unit in units for member in unit.members))


def _extras(name: str, pairs: Sequence[Pair]) -> list[Choice]:
    return [Choice(name, pair.loss, pair.costs) for pair in pairs if pair.first[1] == name]


def _sum(parts: Sequence[Choice]) -> Choice:
    names = dict.fromkeys(name for part in parts for name in part.costs)
    costs = {name: math.fsum(part.costs.get(name, 0.0) for part in parts) for name in names}
    return Choice(parts[0].name, math.fsum(part.loss for part in parts), costs)
