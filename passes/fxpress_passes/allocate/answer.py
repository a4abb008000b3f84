"""problem, one choice of each unit ==> an Answer: what was chosen, what it loses and costs, and how good it is known to be."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from fxpress_ir.errors import PassError

from .figures import figure, table
from .problem import WHERE, Problem


@dataclass(frozen=True)
class Answer:
    """A solver's answer.

    Attributes:
        chosen: unit -> choice.
        decisions: member of a unit -> choice; what a pass replays, without the problem or the search.
        loss, costs: sums over what was chosen, predicted.
        budgets: what the answer was found under.
        solver: its name.
        bound: no answer has less loss than this; None where the solver has no such bound.
        seconds: of wall clock.
    """

    chosen: Mapping[str, str]
    decisions: Mapping[str, str]
    loss: float
    costs: Mapping[str, float]
    budgets: Mapping[str, float]
    solver: str
    bound: float | None = None
    seconds: float = field(default=0.0, compare=False)

    @classmethod
    def of(cls, problem: Problem, chosen: Mapping[str, str], solver: str, *, bound: float | None = None, seconds: float = 0.0) -> Answer:
        """The answer that takes `chosen`; loss and costs are summed anew, and a bound above the loss is the loss."""
        ordered = {unit.name: chosen[unit.name] for unit in problem.units}
        loss, costs = problem.loss(ordered), problem.costs(ordered)
        bound = None if bound is None else min(bound, loss)
        return cls(ordered, problem.decisions(ordered), loss, costs, dict(problem.budgets), solver, bound, seconds)

    @property
    def gap(self) -> float | None:
        """(loss - bound) / |loss|: 0 where the answer is proved best, None without a bound."""
        if self.bound is None:
            return None
        if self.loss == self.bound:
            return 0.0
        return (self.loss - self.bound) / abs(self.loss) if self.loss else math.inf

    def __str__(self) -> str:
        known = "no bound" if self.gap is None else f"gap {self.gap:.2g}"
        lines = [f"{self.solver}: loss {self.loss:.6g}, {known}, {self.seconds:.3f} s"]
        for name, value in self.costs.items():
            limit = self.budgets.get(name)
            of = "" if limit is None else f" of {figure(name, limit)}" + (f" ({value / limit:.1%})" if limit > 0 else "")
            lines.append(f"{name} {figure(name, value)}{of}")
        return "\n".join([*lines, table(("decision", "choice"), list(self.decisions.items()))])

    def to_json(self) -> str:
        """The answer as text; ``from_json`` reads it back."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Answer:
        """The answer in a text.

        Raises:
            PassError: it is no JSON of an answer.
        """
        try:
            found = cls(**json.loads(text))
            if not all(isinstance(choice, str) for choice in (*found.chosen.values(), *found.decisions.values())):
                raise TypeError("choices are names")
        except (ValueError, TypeError, AttributeError) as error:
            raise PassError(f"is no answer: {error}", where=WHERE, way_on="give what Answer.to_json wrote") from error
        return found
