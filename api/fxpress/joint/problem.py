"""space, losses, costs, budgets ==> the allocator's problem: layers, groups and blocks as units, what they do to each other as pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from fxpress_ir.analysis.blocks import residual_blocks
from fxpress_passes.allocate import Choice, Pair, Problem, Unit

from .costs import Costs
from .space import LEAVES, STAYS, Space

Losses = Mapping[tuple[str, str], float]


def problem_of(space: Space, losses: Losses, costs: Costs, budgets: Mapping[str, float], at: Mapping[str, str] | None = None) -> Problem:
    """Sums of sizes and latencies as `costs` has them.

    A group's choice takes its share of each of its layers along; two groups of one layer, an input's and an output's, take shares of
    shares, unless `Costs.beside` has them: what both count twice is given back as the layer costs at its choice in `at`, where sums
    are those of the program. A block takes its layers along, and their losses.

    Args:
        at: choices near the answer that is looked for; each unit's first by default, where too much is given back.
    """
    resources = ("size",) if costs.seconds is None else ("size", "latency")

    def of(unit: str, choice: str) -> dict[str, float]:
        if unit not in space.layers:
            return {name: -costs.others.get((unit, choice), 0.0) if name == "latency" else 0.0 for name in resources}
        found = {"size": costs.size[unit, choice]}
        return found if costs.seconds is None else {**found, "latency": costs.seconds[unit, choice]}

    # of a space with fewer families than the costs were measured for
    costs = replace(costs, shares={key: shares for key, shares in costs.shares.items() if key[0] in space.units})
    units = []
    for name, choices in space.units.items():
        made = [Choice(choice, losses[name, choice], of(name, choice)) for choice in choices]
        units.append(Unit(name, tuple(_useful(made, (at or {}).get(name)) if name in space.layers else made)))
    by_name = {unit.name: {choice.name: choice for choice in unit.choices} for unit in units}
    spent = {name: of(name, (at or space.nothing)[name]) for name in space.layers}
    pairs = [*_groups(costs, by_name), *_both(costs, spent), *_blocks(space, costs, by_name, spent)]
    return Problem(tuple(units), dict(budgets), tuple(pairs), {name: costs.overhead[name] for name in resources})


def _useful(choices: list[Choice], chosen: str | None) -> list[Choice]:
    """Without those than which another loses and costs no more, unless they are chosen; of equals the first stays."""
    kept: list[Choice] = []
    for choice in choices:
        rivals = [*kept, *(other for other in choices if other is not choice and other not in kept)]
        if choice.name == chosen or not any(_beats(other, choice, other in kept) for other in rivals):
            kept.append(choice)
    return kept


def _beats(other: Choice, choice: Choice, or_equals: bool) -> bool:
    pairs = [(other.loss, choice.loss), *((other.costs[name], choice.costs[name]) for name in choice.costs)]
    return all(a <= b for a, b in pairs) and (or_equals or any(a < b for a, b in pairs))


Named = Mapping[str, Mapping[str, Choice]]
Spent = Mapping[str, Mapping[str, float]]
"""By layer, its costs at one choice."""


def _groups(costs: Costs, units: Named) -> Iterator[Pair]:
    for (group, level), shares in costs.shares.items():
        for layer, share in shares.items():
            for choice in units[layer].values():
                saved = {name: -value * (1 - share) * _rate(costs, name, layer) for name, value in choice.costs.items()}
                yield Pair((group, level), (layer, choice.name), costs=saved)


def _both(costs: Costs, spent: Spent) -> Iterator[Pair]:
    found = list(costs.shares.items())
    for place, ((group, level), shares) in enumerate(found):
        for (other, other_level), others in found[place + 1 :]:
            twice = [layer for layer in shares if layer in others and (group, other, layer) not in costs.beside]
            common = {layer: (1 - shares[layer]) * (1 - others[layer]) for layer in twice}
            if other != group and common:
                yield Pair((group, level), (other, other_level), costs=_back(common, costs, spent))


def _back(gone: Mapping[str, float], costs: Costs, spent: Spent) -> dict[str, float]:
    """What was taken twice from each layer, as shares of what it spends."""
    back = dict[str, float]()
    for layer, share in gone.items():
        for name, value in spent[layer].items():
            back[name] = back.get(name, 0.0) + value * share * _rate(costs, name, layer)
    return back


def _rate(costs: Costs, resource: str, layer: str) -> float:
    return costs.rate[layer] if resource == "latency" else 1.0


def _blocks(space: Space, costs: Costs, units: Named, spent: Spent) -> Iterator[Pair]:
    names = {pair: name for name, pair in space.blocks.items()}
    members = {member: unit for unit, layer in space.layers.items() for member in layer.names}
    for block in residual_blocks(space.program) if names else ():
        if block.names not in names:
            continue
        unit = names[block.names]
        assert set(units[unit]) == {STAYS, LEAVES}
        own = {members[node.name] for node in block.layers if node.name in members}
        # a layer whose weight others read too does not leave with one block
        inside = {node.name for node in block.nodes}
        leaving = sorted(name for name in own if set(space.layers[name].names) <= inside)
        for layer in leaving:
            for choice in units[layer].values():
                yield Pair((unit, LEAVES), (layer, choice.name), -choice.loss, {name: -value for name, value in choice.costs.items()})
        for (group, level), shares in costs.shares.items():
            gone = {layer: 1 - shares[layer] for layer in leaving if layer in shares}
            if gone and set(gone) == set(shares):
                # nothing of the group is left to shrink
                yield Pair((unit, LEAVES), (group, level), forbidden=True)
            elif gone:
                yield Pair((unit, LEAVES), (group, level), costs=_back(gone, costs, spent))
