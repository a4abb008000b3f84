"""A problem without an answer ==> which budgets exclude each other, and the nearest values that can be held."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
from fxpress_ir.errors import InfeasibleError
from scipy.sparse import csr_array, hstack

from .figures import figure
from .linear import Linear, Row, Vector, best, linear
from .problem import WHERE, Problem


def infeasible(problem: Problem) -> InfeasibleError:
    """The error that says so: which budgets bind, and the nearest values that hold together.

    Binding are those that no answer holds even alone; without such, budgets that exclude each other, of which none can be
    left out. The nearest exceed the budgets by the least sum of shares of the budgets. Where one budget alone may give way while all
    others hold, the line names each that can, and its nearest value; numbers are rounded up.
    """
    model = linear(problem)
    if not _feasible(model, ()):
        return InfeasibleError("forbidden pairs exclude every answer", where=WHERE, way_on="forbid fewer pairs")
    single = tuple(name for name in problem.budgets if not _feasible(model, (name,)))
    binding = single or _conflict(model)
    nearest = _nearest(model)
    asked = " and ".join(f"{name} at most {figure(name, problem.budgets[name])}" for name in binding)
    what = f"{asked} cannot be held" if single else f"{asked} cannot be held together"
    alone = {name: least for name in binding if (least := _least(model, name)) is not None}
    found, joint = (alone, " or ") if alone else (nearest, " and ")
    way_on = joint.join(f"{name} {figure(name, value, up=True)}" for name, value in found.items())
    return InfeasibleError(what, where=WHERE, way_on=f"the nearest is {way_on}", binding=binding, nearest=nearest)


def least_cost(problem: Problem, resource: str) -> float:
    """The least of a resource while all other budgets hold.

    Raises:
        InfeasibleError: they do not hold together.
    """
    others = problem.within({name: limit for name, limit in problem.budgets.items() if name != resource})
    chosen = _chosen(linear(others), linear(others).costs[resource], others.budgets)
    if chosen is None:
        raise infeasible(others)
    return others.costs(chosen)[resource]


def is_feasible(problem: Problem) -> bool:
    """There is an answer that holds all budgets."""
    return _feasible(linear(problem), problem.budgets)


def _feasible(model: Linear, names: Collection[str]) -> bool:
    """There is an answer within these budgets."""
    return _chosen(model, np.zeros(len(model.loss)), names) is not None


def _least(model: Linear, name: str) -> float | None:
    """The least of a resource while all other budgets hold; None where they do not."""
    chosen = _chosen(model, model.costs[name], [other for other in model.problem.budgets if other != name])
    return None if chosen is None else model.problem.costs(chosen)[name]


def _chosen(model: Linear, objective: Vector, names: Collection[str]) -> dict[str, str] | None:
    problem = model.problem
    asked = problem.within({name: problem.budgets[name] for name in names})
    return best(model, objective, [model.budget(name) for name in names], asked.allows)[1].chosen


def _conflict(model: Linear) -> tuple[str, ...]:
    """Budgets that exclude each other, of which none can be left out: each that can be is left out, the last first."""
    kept = list(model.problem.budgets)
    for name in reversed(tuple(kept)):
        others = [other for other in kept if other != name]
        if not _feasible(model, others):
            kept = others
    return tuple(kept)


def _nearest(model: Linear) -> dict[str, float]:
    """The values of the budgets that have to give way, at the least sum of excesses, each a share of its budget."""
    problem, count = model.problem, len(model.problem.budgets)
    wide = replace(
        model,
        equal=hstack([model.equal, csr_array((model.equal.shape[0], count))]).tocsr(),
        costs={name: np.append(values, np.zeros(count)) for name, values in model.costs.items()},
        upper=np.append(model.upper, np.full(count, np.inf)),
    )
    rows = []
    for place, name in enumerate(problem.budgets):
        values = wide.costs[name].copy()
        values[len(model.loss) + place] = -(abs(problem.budgets[name]) or 1.0)
        rows.append(Row(values, wide.budget(name).most))
    objective = np.append(np.zeros(len(model.loss)), np.ones(count))
    chosen = best(wide, objective, rows, problem.within({}).allows)[1].chosen
    assert chosen is not None  # excesses are not bounded
    costs = problem.costs(chosen)
    return {name: costs[name] for name, limit in problem.budgets.items() if not problem.within({name: limit}).holds(costs)}
