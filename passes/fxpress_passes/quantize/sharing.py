"""Concatenations ==> groups of values that should share one scale, so that nothing has to be requantised."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from .recognize import Recognition
from .recognized import PASSES_ON, Recognized

_FREE = frozenset({"weighted", "table", "concat", "constant", "embedding", "normalize", "rotary"})
"""Kinds whose scale no operand's decides."""


def shared(recognition: Recognition, islands: Mapping[fx.Node, str]) -> list[list[fx.Node]]:
    """Groups of sites (values that have a quantiser), found by union over each concatenation and its operands.

    Values whose scale is snapped to their operands' (adds, averages, products) keep their own and are requantised where
    they are concatenated; everything else takes the group's scale.
    """
    parent: dict[fx.Node, fx.Node] = {}

    def find(node: fx.Node) -> fx.Node:
        parent.setdefault(node, node)
        while parent[node] is not node:
            node = parent[node]
        return node

    for node, what in recognition.found.items():
        if isinstance(what, Recognized) and what.kind == "concat" and node not in islands:
            for operand in what.operands:
                site = site_of(operand, recognition)
                if _takes_any_scale(site, recognition):
                    parent[find(site)] = find(node)
    groups: dict[fx.Node, list[fx.Node]] = {}
    for node in parent:
        groups.setdefault(find(node), []).append(node)
    return [group for group in groups.values() if len(group) > 1]


def site_of(node: fx.Node, recognition: Recognition) -> fx.Node:
    """The value whose scale `node` has: itself, or what it moves, pads or takes the maximum of."""
    what = recognition.found.get(node)
    while isinstance(what, Recognized) and what.kind in {*PASSES_ON, "pad"}:
        node = what.operands[0]
        what = recognition.found.get(node)
    return node


def _takes_any_scale(site: fx.Node, recognition: Recognition) -> bool:
    what = recognition.found.get(site)
    return not isinstance(what, Recognized) or what.kind in _FREE
