"""physical plan, others of the same program ==> the plan whose every part is the fastest of its alternatives, and the table of times.

A part is what one or more groups compute between the same buffers: a convolution with its addition against the two apart, tiles of
another size, AMX against dot products. All give the same bits, so only times decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .alternatives import Alternatives, prefetches, tiles
from .physical import FUNCTION, RESULT, Group, Plan

AHEAD = 0.97
"""Of the first alternative's time: what another has to stay below to take its place."""
_RENAMED = "{}.other"
"""A constant of another plan, which packs the same weight in its own way."""


@dataclass(frozen=True)
class Part:
    """Neighbouring groups of a plan that compute one value."""

    plan: Plan
    groups: tuple[Group, ...]

    @property
    def signature(self) -> str:
        """Equal for parts that run the same code on memory of the same sizes."""
        names = list(dict.fromkeys(name for group in self.groups for name in (*group.inputs, group.output)))
        buffers = [str(replace(self.plan.buffers[name], name=str(place))) for place, name in enumerate(names)]
        arrays = [(array.dtype, array.shape) for group in self.groups for array in map(self.plan.constants.__getitem__, group.constants)]
        calls = [(group.kernel, group.attributes, [names.index(name) for name in group.inputs]) for group in self.groups]
        return str((buffers, arrays, calls))

    def __str__(self) -> str:
        return " + ".join(f"{group.kernel}{_tile(group)}" for group in self.groups)


def _tile(group: Group) -> str:
    tile, ahead = group.attributes.get("tile"), group.attributes.get("prefetch")
    sizes = f" {'x'.join(map(str, tile))}" if isinstance(tile, (list, tuple)) else ""
    return sizes + ("" if ahead is None else " prefetch {}+{}".format(*ahead))


def parts(plan: Plan, alternatives: Alternatives = tiles) -> Iterator[tuple[Group, tuple[Part, ...]]]:
    """Each group that has alternatives within its plan, with all of them, its own first."""
    for group in plan.groups:
        found = alternatives(plan, group)
        if found:
            yield group, tuple(Part(plan, (other,)) for other in found)


def matched(plan: Plan, other: Plan) -> dict[int, tuple[int, tuple[Part, Part]]]:
    """Where another plan computes the same nodes by other groups between equal buffers: first group, how many, and both parts."""
    found = {}
    for start, length, theirs in _pairs(plan, other):
        ours = plan.groups[start : start + length]
        if not _same_work(ours, theirs) and _same_ends(plan, ours, other, theirs):
            found[start] = (length, (Part(plan, tuple(ours)), Part(other, tuple(theirs))))
    return found


def _pairs(plan: Plan, other: Plan) -> Iterator[tuple[int, int, Sequence[Group]]]:
    """The shortest runs of neighbouring groups in both plans that compute the same nodes, walked side by side."""
    i = j = 0
    while i < len(plan.groups) and j < len(other.groups):
        ours, theirs = set(plan.groups[i].nodes), set(other.groups[j].nodes)
        ends = [i + 1, j + 1]
        while ours != theirs:
            if ours < theirs and ends[0] < len(plan.groups):
                ours |= set(plan.groups[ends[0]].nodes)
                ends[0] += 1
            elif ends[1] < len(other.groups):
                theirs |= set(other.groups[ends[1]].nodes)
                ends[1] += 1
            else:
                return
        yield i, ends[0] - i, other.groups[j : ends[1]]
        i, j = ends


def _same_work(ours: Sequence[Group], theirs: Sequence[Group]) -> bool:
    return [(group.kernel, group.attributes) for group in ours] == [(group.kernel, group.attributes) for group in theirs]


def _same_ends(plan: Plan, ours: Sequence[Group], other: Plan, theirs: Sequence[Group]) -> bool:
    """Both read and leave the same values in equal buffers, and no other group reads what lies between."""
    if any(group.kernel in (FUNCTION, RESULT) for group in (*ours, *theirs)):
        return False
    ends = []
    for some, groups in ((plan, ours), (other, theirs)):
        made = {group.output for group in groups}
        outside = {name for group in some.groups if group not in groups for name in group.inputs} | set(some.outputs)
        read = {name for group in groups for name in group.inputs} - made
        ends.append({str(some.buffers[name]) for name in read | (made & outside)})
    return ends[0] == ends[1]


@dataclass(frozen=True)
class Choice:
    """One line of the table: what was chosen for which nodes, and the microseconds of each alternative, the plan's own first."""

    nodes: tuple[str, ...]
    chosen: int
    alternatives: tuple[str, ...]
    microseconds: tuple[float, ...]

    def data(self) -> dict[str, Any]:
        """The line for a manifest."""
        times = [round(time, 2) for time in self.microseconds]
        return {"nodes": list(self.nodes), "chosen": self.chosen, "alternatives": list(self.alternatives), "microseconds": times}


Times = Callable[[Sequence[Part]], Mapping[str, float]]
"""Microseconds of each part by its signature, all measured in turn in one go."""


def chosen(plan: Plan, others: Sequence[Plan], times: Times) -> tuple[Plan, tuple[Choice, ...]]:
    """The fastest plan and the table; a tie stays with `plan`.

    Tiles, and then prefetches, are chosen within each plan first, so that parts of different plans meet at their best.
    """
    table: list[Choice] = []
    plans = [_with_the_best(each, tiles, times, table if each is plan else []) for each in (plan, *others)]
    plans = [_with_the_best(each, prefetches, times, table if place == 0 else []) for place, each in enumerate(plans)]
    best = plans[0]
    for other in plans[1:]:
        best = _with_best_parts(best, other, times, table)
    return best, tuple(table)


def _best(alternatives: Sequence[Part], found: Mapping[str, float], table: list[Choice]) -> int:
    measured = [found[part.signature] for part in alternatives]
    fastest = min(range(len(measured)), key=measured.__getitem__)
    place = fastest if measured[fastest] < AHEAD * measured[0] else 0
    nodes = tuple(node for group in alternatives[0].groups for node in group.nodes)
    table.append(Choice(nodes, place, tuple(map(str, alternatives)), tuple(measured)))
    return place


def _with_the_best(plan: Plan, alternatives: Alternatives, times: Times, table: list[Choice]) -> Plan:
    several = [(group, some) for group, some in parts(plan, alternatives) if len(some) > 1]
    found = times([part for _, some in several for part in some])
    best = {id(group): some[_best(some, found, table)].groups[0] for group, some in several}
    return replace(plan, groups=tuple(best.get(id(group), group) for group in plan.groups))


def _with_best_parts(plan: Plan, other: Plan, times: Times, table: list[Choice]) -> Plan:
    places = matched(plan, other)
    found = times([part for _, both in places.values() for part in both])
    groups, buffers, constants = list[Group](), dict(plan.buffers), dict(plan.constants)
    place = 0
    while place < len(plan.groups):
        length, both = places.get(place, (1, None))
        taken = plan.groups[place : place + length]
        if both is not None and _best(both, found, table) == 1:
            taken = tuple(replace(group, constants=tuple(map(_RENAMED.format, group.constants))) for group in both[1].groups)
            for group, named in zip(both[1].groups, taken, strict=True):
                buffers |= {name: other.buffers[name] for name in (*group.inputs, group.output)}
                constants |= {new: other.constants[old] for old, new in zip(group.constants, named.constants, strict=True)}
        groups += taken
        place += length
    return replace(plan, groups=tuple(groups), buffers=buffers, constants=constants)
