"""answer of an allocation ==> a better one: losses are measured around it, one step up or down a layer, and solved again.

Losses of single choices, measured in the float network, do not add up at few bits: the series that their sum stands for is around
another network. Around the answer the steps are small, and every answer is measured whole before it is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fxpress_ir import Program
from torch import Tensor

from ..allocate.answer import Answer
from ..allocate.problem import Choice, Problem, Unit
from ..allocate.solver import Solver
from ..contract import Context
from ..evidence.sensitivity import Asked, Perturbation
from ..evidence.sensitivity.measured import distance
from .layer_choices import Layer
from .precision import precision_of
from .rounded import rounded_weight

_NOTHING = "as it is"


@dataclass(frozen=True)
class Refine:
    """Improves answers for one program.

    Attributes:
        layers: by the names of their units.
        loss: as `Asked` takes it.
    """

    program: Program
    layers: Mapping[str, Layer]
    context: Context
    loss: str

    def measured(self, chosen: Mapping[str, str]) -> float:
        """The distance of the network with these choices from the float one, on calibration data."""
        return distance(self._asked([Perturbation(_NOTHING, lambda: self._weights(chosen))], {}))[_NOTHING]

    def better(self, problem: Problem, answer: Answer, solver: Solver, rounds: int) -> Answer:
        """The best of the answer, the uniform ones that hold the budgets, and what `rounds` of steps from the best of them find.

        Its loss is measured, not the sum of single choices'.
        """
        starts = [answer, *_uniform(problem, answer)]
        found = min(((self.measured(each.chosen), place, each) for place, each in enumerate(starts)), key=lambda each: each[:2])
        best, least = found[2], found[0]
        for _ in range(rounds):
            local = self._around(problem, best)
            new = solver.solve(local)
            moved = self.measured(new.chosen)
            if new.chosen == best.chosen or moved >= least:
                break
            best, least = new, moved
        return replace(Answer.of(problem, best.chosen, answer.solver, seconds=answer.seconds), loss=least)

    def _around(self, problem: Problem, answer: Answer) -> Problem:
        """The same problem with choices at most one step from the answer's, each measured with all others as they are."""
        near = {unit.name: _near(unit, answer.chosen[unit.name]) for unit in problem.units}
        steps = {
            (unit, choice.name): Perturbation(f"{unit} {choice.name}", lambda unit=unit, name=choice.name: self._weights({unit: name}))  # type: ignore[misc]
            for unit, choices in near.items()
            for choice in choices
            if choice.name != answer.chosen[unit]
        }
        found = distance(self._asked([Perturbation(_NOTHING, dict), *steps.values()], self._weights(answer.chosen)))
        units = tuple(
            replace(
                unit,
                choices=tuple(
                    replace(choice, loss=found[steps[key].name] - found[_NOTHING] if (key := (unit.name, choice.name)) in steps else 0.0)
                    for choice in near[unit.name]
                ),
            )
            for unit in problem.units
        )
        return replace(problem, units=units)

    def _asked(self, perturbations: Sequence[Perturbation], base: Mapping[str, Tensor]) -> Asked:
        return Asked(self.program, perturbations, self.context, self.loss, base=base)

    def _weights(self, chosen: Mapping[str, str]) -> dict[str, Tensor]:
        found = {}
        for unit, name in chosen.items():
            layer = self.layers[unit]
            found[layer.weight] = rounded_weight(self.program.tensors[layer.weight], precision_of(name, "refine").weight, layer.axis)
        return found


def _uniform(problem: Problem, answer: Answer) -> list[Answer]:
    """The same choice everywhere, where every unit has it and the budgets hold."""
    names = dict.fromkeys(choice.name for unit in problem.units for choice in unit.choices)
    found = []
    for name in names:
        chosen = {unit.name: name for unit in problem.units if any(choice.name == name for choice in unit.choices)}
        if len(chosen) == len(problem.units) and problem.allows(chosen):
            found.append(Answer.of(problem, chosen, answer.solver))
    return found


def _near(unit: Unit, chosen: str) -> tuple[Choice, ...]:
    """The chosen one, the next smaller and the next larger."""
    ordered = sorted(unit.choices, key=lambda choice: choice.costs["size"])
    place = next(place for place, choice in enumerate(ordered) if choice.name == chosen)
    return tuple(ordered[max(0, place - 1) : place + 2])
