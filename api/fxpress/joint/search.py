"""problem ==> its answer, improved around itself: losses of single choices do not add up where much changes at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from fxpress_passes.allocate import Answer, Problem, Solver, Unit

Measured = Callable[[Mapping[str, str]], float]
"""One choice of each unit ==> the loss of all of them together."""
Progress = Callable[[str, int, int], None]


def improved(problem: Problem, answer: Answer, solver: Solver, measured: Measured, rounds: int, progress: Progress | None = None) -> Answer:
    """The best by measured loss of the answer and what `rounds` of steps from it find; its loss is the measured one.

    In each round every unit's next smaller and next larger choice is measured with all others as they are, and the problem of these
    is solved again. An answer that measures no better ends it.
    """
    best, least = answer, measured(answer.chosen)
    for number in range(rounds):
        local = _around(problem, best, least, measured, lambda done, total, number=number: _tell(progress, number, done, total))  # type: ignore[misc]
        new = solver.solve(local)
        if new.chosen == best.chosen:
            break
        moved = measured(new.chosen)
        if not moved < least:
            break
        best, least = new, moved
    whole = Answer.of(problem, best.chosen, answer.solver, bound=answer.bound, seconds=answer.seconds)
    return replace(whole, loss=least, bound=None)


def _tell(progress: Progress | None, number: int, done: int, total: int) -> None:
    if progress is not None:
        progress(f"improving, round {number + 1}", done, total)


def _around(problem: Problem, answer: Answer, now: float, measured: Measured, tell: Callable[[int, int], None]) -> Problem:
    near = {unit.name: _near(unit, answer.chosen[unit.name]) for unit in problem.units}
    steps = [(unit, name) for unit, names in near.items() for name in names if name != answer.chosen[unit]]
    found = dict[tuple[str, str], float]()
    for done, (unit, name) in enumerate(steps, start=1):
        found[unit, name] = measured({**answer.chosen, unit: name}) - now
        tell(done, len(steps))
    units = []
    for each in problem.units:
        kept = (choice for choice in each.choices if choice.name in near[each.name])
        units.append(replace(each, choices=tuple(replace(choice, loss=found.get((each.name, choice.name), 0.0)) for choice in kept)))
    # losses of pairs were of single choices; what is measured around an answer has them
    pairs = tuple(
        replace(pair, loss=0.0) for pair in problem.pairs if all(choice in near[unit] for unit, choice in (pair.first, pair.second))
    )
    return replace(problem, units=tuple(units), pairs=pairs)


def _near(unit: Unit, chosen: str) -> tuple[str, ...]:
    """The chosen one and, by what each is predicted to lose, the one before and the one after it."""
    names = [choice.name for choice in sorted(unit.choices, key=lambda choice: choice.loss)]
    place = names.index(chosen)
    return tuple(names[max(0, place - 1) : place + 2])
