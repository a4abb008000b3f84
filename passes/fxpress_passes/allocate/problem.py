"""units with choices, budgets, pairs ==> a Problem; one choice of each unit ==> its loss and its costs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

from fxpress_ir.errors import PassError

from .figures import figure, table

WHERE = "allocate"
ROUNDING = 1e-12
"""Of a budget: what its sum of measured numbers may exceed it by, because sums of floats are rounded."""


@dataclass(frozen=True)
class Choice:
    """One thing that can be done with a unit.

    Attributes:
        name: what is done, ``8`` bits, ``rank=32``, ``drop``; the same name means the same in every unit.
        loss: predicted; losses of units add up.
        costs: of each resource what the unit takes then: ``size`` in bytes, ``latency`` in seconds, ``macs``, ``bops``, any name.
    """

    name: str
    loss: float
    costs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Unit:
    """Decisions that are one: layers, blocks or groups of channels that must choose alike.

    Attributes:
        choices: the order counts: of two answers that are equal in loss and costs, the earlier choices win.
        members: what the unit stands for; itself where nothing is tied to it.
    """

    name: str
    choices: tuple[Choice, ...]
    members: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", self.members or (self.name,))


@dataclass(frozen=True)
class Pair:
    """What two choices of two units add when both are taken.

    Attributes:
        first, second: unit and choice.
        loss, costs: added; of either sign. Costs that are not named are zero.
        forbidden: both cannot be taken.
    """

    first: tuple[str, str]
    second: tuple[str, str]
    loss: float = 0.0
    costs: Mapping[str, float] = field(default_factory=dict)
    forbidden: bool = False


@dataclass(frozen=True)
class Problem:
    """Choose one choice of each unit so that the sum of losses is least and every budget holds.

    Attributes:
        budgets: the most of each resource; a resource without a budget is only counted.
        base: of a resource what is spent whatever is chosen; part of its sum.

    Raises:
        PassError: two units or two choices have one name, a unit has no choice, a number is not finite, a choice has no cost of a
            resource that others have, or a pair names what there is not.
    """

    units: tuple[Unit, ...]
    budgets: Mapping[str, float] = field(default_factory=dict)
    pairs: tuple[Pair, ...] = ()
    base: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self)

    @cached_property
    def resources(self) -> tuple[str, ...]:
        """Names of all that choices cost, those with a budget first."""
        named = [*self.budgets, *self.base, *(name for unit in self.units for choice in unit.choices for name in choice.costs)]
        return tuple(dict.fromkeys(named))

    @cached_property
    def _choices(self) -> dict[tuple[str, str], Choice]:
        return {(unit.name, choice.name): choice for unit in self.units for choice in unit.choices}

    def loss(self, chosen: Mapping[str, str]) -> float:
        """The sum of losses, rounded once; infinite where a forbidden pair is taken."""
        both = [pair for pair in self.pairs if _taken(pair, chosen)]
        if any(pair.forbidden for pair in both):
            return math.inf
        return math.fsum([*(self._choices[item].loss for item in chosen.items()), *(pair.loss for pair in both)])

    def costs(self, chosen: Mapping[str, str]) -> dict[str, float]:
        """The sum of each resource, rounded once."""
        taken = [self.base, *(self._choices[item].costs for item in chosen.items())]
        taken += [pair.costs for pair in self.pairs if _taken(pair, chosen)]
        return {name: math.fsum(costs.get(name, 0.0) for costs in taken) for name in self.resources}

    def holds(self, costs: Mapping[str, float]) -> bool:
        """Every budget holds, but for the rounding of sums."""
        return all(costs[name] <= limit + ROUNDING * abs(limit) for name, limit in self.budgets.items())

    def allows(self, chosen: Mapping[str, str]) -> bool:
        """Every budget holds and no forbidden pair is taken."""
        return math.isfinite(self.loss(chosen)) and self.holds(self.costs(chosen))

    def within(self, budgets: Mapping[str, float]) -> Problem:
        """The same choices under these budgets alone."""
        return replace(self, budgets=dict(budgets))

    def decisions(self, chosen: Mapping[str, str]) -> dict[str, str]:
        """The choice of each member of each unit, by the member's name."""
        return {member: chosen[unit.name] for unit in self.units for member in unit.members}

    def __str__(self) -> str:
        rows = [
            (unit.name, choice.name, f"{choice.loss:.4g}", *(figure(name, choice.costs[name]) for name in self._priced))
            for unit in self.units
            for choice in unit.choices
        ]
        limits = [f"{name} at most {figure(name, limit)}" for name, limit in self.budgets.items()]
        return "\n".join([*limits, table(("unit", "choice", "loss", *self._priced), rows)])

    @property
    def _priced(self) -> tuple[str, ...]:
        return tuple(name for name in self.resources if self.units and name in self.units[0].choices[0].costs)

    def to_json(self) -> str:
        """The problem as text; ``from_json`` reads it back."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Problem:
        """The problem in a text.

        Raises:
            PassError: it is no JSON of a problem.
        """
        try:
            found = json.loads(text)
            units = tuple(_unit(**unit) for unit in found["units"])
            pairs = tuple(_pair(**pair) for pair in found.get("pairs", ()))
            return cls(units, dict(found.get("budgets", {})), pairs, dict(found.get("base", {})))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise PassError(f"is no problem: {error!r}", where=WHERE, way_on="give what Problem.to_json wrote") from error


def _unit(name: str, choices: Sequence[Mapping[str, object]], members: Sequence[str] = ()) -> Unit:
    return Unit(name, tuple(Choice(**choice) for choice in choices), tuple(members))  # type: ignore[arg-type]


def _pair(first: Sequence[str], second: Sequence[str], **others: object) -> Pair:
    (one, one_choice), (other, other_choice) = first, second
    return Pair((one, one_choice), (other, other_choice), **others)  # type: ignore[arg-type]


def _taken(pair: Pair, chosen: Mapping[str, str]) -> bool:
    return all(chosen.get(unit) == choice for unit, choice in (pair.first, pair.second))


def _check(problem: Problem) -> None:
    for what in _broken(problem):
        raise PassError(what, where=WHERE, way_on="repair the problem's choices")


def _broken(problem: Problem) -> list[str]:
    """What is wrong with a problem, the first things first."""
    names = [unit.name for unit in problem.units]
    found = [f"two units are called {name!r}" for name in dict.fromkeys(names) if names.count(name) > 1]
    priced = {name for unit in problem.units for choice in unit.choices for name in choice.costs}
    priced |= problem.budgets.keys() - problem.base.keys()
    for unit in problem.units:
        given = [choice.name for choice in unit.choices]
        if len(set(given)) != len(given) or not given:
            found.append(f"unit {unit.name!r} has no choice or two of one name")
        for choice in unit.choices:
            numbers = {"loss": choice.loss, **choice.costs}
            found += [f"{name} of {unit.name!r} at {choice.name!r} is {value!r}" for name, value in numbers.items() if not _finite(value)]
            found += [f"unit {unit.name!r} at {choice.name!r} has no cost of {name}" for name in sorted(priced - choice.costs.keys())]
    known = {(unit.name, choice.name) for unit in problem.units for choice in unit.choices}
    for pair in problem.pairs:
        found += [f"a pair names {choice!r} of {unit!r}" for unit, choice in (pair.first, pair.second) if (unit, choice) not in known]
        if pair.first[0] == pair.second[0]:
            found.append(f"a pair names unit {pair.first[0]!r} twice")
        if not all(map(_finite, (pair.loss, *pair.costs.values()))):
            found.append(f"a pair of {pair.first} and {pair.second} is not finite")
        found += [f"a pair costs {name}, which no choice does" for name in pair.costs if name not in priced]
    limits = [*problem.budgets.items(), *problem.base.items()]
    return found + [f"the budget or base of {name} is {value!r}" for name, value in limits if not _finite(value)]


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
