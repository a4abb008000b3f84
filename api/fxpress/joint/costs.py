"""space, what a target measures ==> bytes and seconds of every layer at every choice, and the share of each that a group takes along."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from math import prod
from statistics import fmean

from fxpress_ir import Program
from fxpress_passes.quantize.layer_choices import layers_of

from .space import LEAVES, SHARES, WHOLE, Space, group_unit, parts

OTHERS = ""
"""The name under which seconds are that no layer with weights takes."""


@dataclass(frozen=True)
class Taken:
    """What one integer program takes on the target.

    Attributes:
        size: bytes of the artifact's payload.
        seconds: of one run by layers' names, those of all else by `OTHERS`; None where time is not asked for.
    """

    size: int
    seconds: Mapping[str, float] | None


Measure = Callable[[Mapping[str, tuple[Program, Mapping[str, str]]]], Mapping[str, Taken]]
"""By label, float programs and the bits of their layers ==> what their integer programs take."""


@dataclass(frozen=True)
class Costs:
    """Measured on programs that make one choice everywhere, so that each kernel runs among the others.

    Attributes:
        size: of a layer at a choice, in bytes: its elements at the bytes that one element was measured to take at these bits,
            and of a layer in two its part of what artifacts grow by beyond weights.
        seconds: of a layer at a choice.
        shares: of a group's choice, by layer, the share of its elements that stays.
        rate: of a layer, how much of its time goes with its elements when channels leave; 1 where all does.
        overhead: bytes and seconds that no choice changes.
        others: of a group's choice, and of a block that leaves, the seconds that others than layers take less.
        beside: two groups' units and a layer of which they cut one dimension, as parts of a concatenation do: what they take from it
            adds up, where two groups of two dimensions take shares of shares.
    """

    size: Mapping[tuple[str, str], float]
    seconds: Mapping[tuple[str, str], float] | None
    shares: Mapping[tuple[str, str], Mapping[str, float]]
    rate: Mapping[str, float]
    overhead: Mapping[str, float]
    others: Mapping[tuple[str, str], float]
    beside: frozenset[tuple[str, str, str]] = frozenset()

    @classmethod
    def measured(cls, space: Space, measure: Measure) -> Costs:
        """Build, lower and time one program for each precision, each share of ranks and of channels, and one without the blocks."""
        ranks = [f"r{share:g}" for share in SHARES if space.ranked]
        labels = [*space.bits, *ranks, *_levels(space), *([LEAVES] if space.blocks else [])]
        plans = {label: space.built(_everywhere(space, label)) for label in labels}
        taken = measure({label: (cut, plan.bits) for label, (plan, cut) in plans.items()})
        first = space.bits[0]
        elements = {name: layer.elements for name, layer in space.layers.items()}
        bytes_of = _bytes_an_element(space, {bits: taken[bits].size for bits in space.bits}, sum(elements.values()))
        choices = [(name, choice) for name in space.layers for choice in space.units[name]]
        size = {(name, choice): _elements(space, name, choice) * bytes_of[parts(choice)[1]] for name, choice in choices}
        for (name, choice), code in _code(space, taken).items():
            size[name, choice] += code
        groups = [(name, choice) for name in space.atoms for choice in space.units[group_unit(name)]]
        shapes = {(group_unit(name), choice): _shapes(space, name, choice) for name, choice in groups}
        shares = {key: {name: prod(shape) / elements[name] for name, shape in found.items()} for key, found in shapes.items()}
        beside = frozenset(_beside(space, shapes))
        overhead = {"size": taken[first].size - sum(size[name, first] for name in space.layers)}
        whole = taken[first].seconds
        if whole is None:
            return cls(size, None, shares, dict.fromkeys(space.layers, 1.0), overhead, {}, beside)
        seconds = {(name, choice): _seconds(space, name, choice, taken) for name, choice in choices}
        overhead["latency"] = whole.get(OTHERS, 0.0)
        cuts = {level: plans[level][1] for level in _levels(space)}
        levels = {level: taken[level].seconds or {} for level in _levels(space)}
        others = _others(space, whole, levels)
        if space.blocks:
            saved = max(whole[OTHERS] - (taken[LEAVES].seconds or {}).get(OTHERS, 0.0), 0.0) / len(space.blocks)
            others.update({(name, LEAVES): saved for name in space.blocks})
        return cls(size, seconds, shares, _rates(space, whole, levels, cuts), overhead, others, beside)

    def scaled(self, factor: float) -> Costs:
        """With all seconds times `factor`: of a run as a whole over the sum of its parts."""
        if self.seconds is None:
            return self
        seconds, others = ({key: value * factor for key, value in found.items()} for found in (self.seconds, self.others))
        overhead = {**self.overhead, "latency": self.overhead["latency"] * factor}
        return replace(self, seconds=seconds, others=others, overhead=overhead)


def _levels(space: Space) -> list[str]:
    return list(dict.fromkeys(f"keep {share:g}" for levels in space.atoms.values() for share in levels))


def _everywhere(space: Space, label: str) -> dict[str, str]:
    """One choice of each unit that has it, all else at its first."""
    found = {}
    for unit, choices in space.units.items():
        wanted = f"{label} {space.bits[0]}" if label.startswith("r") else label
        if wanted in choices:
            found[unit] = wanted
    return found


def _elements(space: Space, name: str, choice: str) -> int:
    """Of the weight, or of both factors."""
    layer = space.layers[name]
    share, _ = parts(choice)
    shape = space.program.tensors[layer.weight].shape
    rank = space.rank(shape, share) if share < 1 else 0
    return rank * (shape[0] + layer.elements // shape[0]) if rank else layer.elements


def _bytes_an_element(space: Space, sizes: Mapping[str, int], elements: int) -> dict[str, float]:
    """By bits; at 8 it is one, and what artifacts of fewer are smaller by counts for all elements alike."""
    eight = sizes[space.bits[0]]
    at_first = int(space.bits[0].removeprefix("w")) / 8
    return {bits: max(at_first - (eight - size) / elements, 0.0) for bits, size in sizes.items()}


def _code(space: Space, taken: Mapping[str, Taken]) -> dict[tuple[str, str], float]:
    """Of layers in two, the bytes that artifacts grow by beyond weights: kernels of other shapes, nodes, scales; each has its part."""
    found, first = dict[tuple[str, str], float](), space.bits[0]
    for name in sorted(space.ranked):
        for choice in space.units[name]:
            share, _ = parts(choice)
            if share < 1:
                label = f"r{share:g}"
                weights = sum(_elements(space, each, f"{label} {first}") - space.layers[each].elements for each in space.ranked)
                found[name, choice] = max(taken[label].size - taken[first].size - weights, 0.0) / len(space.ranked)
    return found


def _shapes(space: Space, group: str, choice: str) -> dict[str, tuple[int, ...]]:
    """By layers that a group's choice makes smaller, what is left of the weight."""
    if choice == WHOLE:
        return {}
    _, cut = space.built({group_unit(group): choice})
    left = {layer.weight: tuple(cut.tensors[layer.weight].shape) for layer in layers_of(cut)}
    found = {name: left[layer.weight] for name, layer in space.layers.items()}
    return {name: shape for name, shape in found.items() if prod(shape) < space.layers[name].elements}


def _beside(space: Space, shapes: Mapping[tuple[str, str], Mapping[str, tuple[int, ...]]]) -> Iterator[tuple[str, str, str]]:
    cut = {unit: {name: _axes(space, name, shape) for name, shape in found.items()} for (unit, _), found in shapes.items() if found}
    for first, second in permutations(cut, 2):
        yield from ((first, second, name) for name in cut[first].keys() & cut[second].keys() if cut[first][name] & cut[second][name])


def _axes(space: Space, name: str, shape: Sequence[int]) -> set[int]:
    whole = space.program.tensors[space.layers[name].weight].shape
    return {axis for axis, (before, after) in enumerate(zip(whole, shape, strict=True)) if after < before}


def _seconds(space: Space, name: str, choice: str, taken: Mapping[str, Taken]) -> float:
    """As split at this share, times what the bits were measured to change, and its share of what others take more.

    A second layer's launches cost as much at each layer that is split; what bits add goes with elements.
    """
    share, bits = parts(choice)
    label = space.bits[0] if share == 1 else f"r{share:g}"
    whole, split, at_bits = (taken[each].seconds or {} for each in (space.bits[0], label, bits))
    change = at_bits.get(name, 0.0) / whole[name] if whole.get(name) else 1.0
    more_split, more_bits = (max(found.get(OTHERS, 0.0) - whole.get(OTHERS, 0.0), 0.0) for found in (split, at_bits))
    part = space.layers[name].elements / sum(layer.elements for layer in space.layers.values())
    return split.get(name, 0.0) * change + more_bits * part + (more_split / len(space.ranked) if share < 1 else 0.0)


def _rates(
    space: Space, whole: Mapping[str, float], levels: Mapping[str, Mapping[str, float]], cuts: Mapping[str, Program]
) -> dict[str, float]:
    found = {name: list[float]() for name in space.layers}
    for level, seconds in levels.items():
        elements = {layer.weight: layer.elements for layer in layers_of(cuts[level])}
        for name, layer in space.layers.items():
            left = elements[layer.weight] / layer.elements
            if left < 1 and whole.get(name):
                found[name].append((1 - seconds.get(name, 0.0) / whole[name]) / (1 - left))
    return {name: min(max(fmean(slopes), 0.0), 1.0) if slopes else 1.0 for name, slopes in found.items()}


def _others(space: Space, whole: Mapping[str, float], levels: Mapping[str, Mapping[str, float]]) -> dict[tuple[str, str], float]:
    """What others than layers take less at a level, to equal parts from the groups that have it."""
    found = {}
    for level, seconds in levels.items():
        units = [group_unit(name) for name in space.atoms if level in space.units[group_unit(name)]]
        saved = max(whole.get(OTHERS, 0.0) - seconds.get(OTHERS, 0.0), 0.0) / len(units)
        found.update({(unit, level): saved for unit in units})
    return found
