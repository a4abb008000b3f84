"""answer of an allocation ==> a better one: what steps around it move the output by, together, decides the next; each is measured.

Losses of single choices, measured in the float network, do not add up at few bits: rounding errors of layers meet in the output and
partly cancel, and the series that their sum stands for is around another network. Around an answer steps are small, their moves of the
output add to first order, and every answer is measured whole before it is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fxpress_ir import Program
from torch import Tensor

from ..allocate.answer import Answer
from ..allocate.descend import descend
from ..allocate.problem import Choice, Pair, Problem, Unit
from ..contract import Context
from ..evidence.sensitivity import Asked, Perturbation, superposed
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

    def better(self, problem: Problem, answer: Answer, rounds: int) -> Answer:
        """The best of the answer, the best uniform one that holds the budgets, and what `rounds` of steps from the best of them find.

        Its loss is measured, not the sum of single choices'.
        """
        starts = [answer, *_uniform(problem, answer)]
        found = min(((self.measured(each.chosen), place, each) for place, each in enumerate(starts)), key=lambda each: each[:2])
        best, least = dict(found[2].chosen), found[0]
        for _ in range(rounds):
            new = descend(self._around(problem, best), best)
            moved = self.measured(new) if new != best else least
            if moved >= least:
                break
            best, least = new, moved
        return replace(Answer.of(problem, best, answer.solver, seconds=answer.seconds), loss=least)

    def _around(self, problem: Problem, chosen: Mapping[str, str]) -> Problem:
        """The same problem with choices at most one step from those chosen, and with a pair for each two steps."""
        near = {unit.name: _near(unit, chosen[unit.name]) for unit in problem.units}
        steps = [(unit, choice.name) for unit, choices in near.items() for choice in choices if choice.name != chosen[unit]]
        asked = [
            Perturbation(f"{unit} {name}", lambda unit=unit, name=name: self._weights({unit: name}))  # type: ignore[misc]
            for unit, name in steps
        ]
        products = superposed(self._asked(asked, self._weights(chosen))).tolist()
        losses = {step: products[0][place] + products[place][place] / 2 for place, step in enumerate(steps, start=1)}
        units = tuple(
            replace(unit, choices=tuple(replace(choice, loss=losses.get((unit.name, choice.name), 0.0)) for choice in near[unit.name]))
            for unit in problem.units
        )
        placed = list(enumerate(steps, start=1))
        pairs = (Pair(one, other, products[at][to]) for at, one in placed for to, other in placed[at:] if one[0] != other[0])
        return replace(problem, units=units, pairs=tuple(pairs))

    def _asked(self, perturbations: Sequence[Perturbation], base: Mapping[str, Tensor]) -> Asked:
        return Asked(self.program, perturbations, self.context, self.loss, base=base)

    def _weights(self, chosen: Mapping[str, str]) -> dict[str, Tensor]:
        found = {}
        for unit, name in chosen.items():
            layer = self.layers[unit]
            found[layer.weight] = rounded_weight(self.program.tensors[layer.weight], precision_of(name, "refine").weight, layer.axis)
        return found


def _uniform(problem: Problem, answer: Answer) -> list[Answer]:
    """Of the same choice everywhere, where every unit has it and the budgets hold, the one that is expected to lose least."""
    names = dict.fromkeys(choice.name for unit in problem.units for choice in unit.choices)
    found = []
    for name in names:
        chosen = {unit.name: name for unit in problem.units if any(choice.name == name for choice in unit.choices)}
        if len(chosen) == len(problem.units) and problem.allows(chosen):
            found.append(Answer.of(problem, chosen, answer.solver))
    return sorted(found, key=lambda each: each.loss)[:1]


def _near(unit: Unit, chosen: str) -> tuple[Choice, ...]:
    """The chosen one, the next smaller and the next larger."""
    ordered = sorted(unit.choices, key=lambda choice: choice.costs["size"])
    place = next(place for place, choice in enumerate(ordered) if choice.name == chosen)
    return tuple(ordered[max(0, place - 1) : place + 2])
