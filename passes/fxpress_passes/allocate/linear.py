"""Problem ==> a mixed-integer linear program: a binary a choice, products of binaries for pairs; solved by HiGHS.

Pairs between two units are products x * y of their binaries. Each product is a variable, and those of one choice of the one unit
sum to that choice's binary (Sherali and Adams, 1990): exact, and tighter than ``z >= x + y - 1``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product

import numpy as np
from fxpress_ir.errors import PassError
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, csr_array, vstack

from .problem import WHERE, Choice, Pair, Problem
from .quiet import printing_to_stderr

Vector = NDArray[np.float64]
Item = tuple[str, str]
"""A unit and one of its choices."""

_Equation = tuple[dict[int, float], float]
"""Numbers by place, and what their sum is."""
_LIMIT, _INFEASIBLE = 1, 2
"""Of scipy's statuses."""
_TOLERANCE = 1e-6
"""HiGHS's own, of sums and of gaps."""
_SPAN = 1e5
"""What differences of an objective are scaled to. Rows are scaled to 1: an answer may exceed a limit by 1e-6 of the largest number,
no answer at the limit is lost, and `best` cuts off what exact sums do not allow."""
_ATTEMPTS = 200
"""Answers that are right by tolerances alone, before it is given up."""


@dataclass(frozen=True)
class Row:
    """``values @ x <= most``."""

    values: Vector
    most: float


@dataclass(frozen=True)
class Found:
    """An answer, None where there is none; what the objective of no answer is below, and what HiGHS takes for no difference of it."""

    chosen: dict[str, str] | None
    bound: float
    tolerance: float = 0.0


@dataclass(frozen=True)
class Linear:
    """Binaries of all choices, then a variable for each product of two.

    Attributes:
        columns: (unit, choice) -> place of its binary.
        products: two of those -> place of their product.
        equal, right: ``equal @ x == right``: one choice a unit, products that sum to their binaries.
        loss: of each variable.
        costs: resource -> of each variable; the problem's base is not in them.
        upper: 0 for what is forbidden, else 1.
        cuts: rows that cut off answers.
    """

    problem: Problem
    columns: Mapping[Item, int]
    products: Mapping[frozenset[Item], int]
    equal: csr_array
    right: Vector
    loss: Vector
    costs: Mapping[str, Vector]
    upper: Vector
    cuts: tuple[Row, ...] = ()

    def budget(self, name: str) -> Row:
        """The row of one budget."""
        return Row(self.costs[name], self.problem.budgets[name] - self.problem.base.get(name, 0.0))

    def without(self, chosen: Mapping[str, str]) -> Linear:
        """The same program less one answer."""
        taken = np.zeros(len(self.loss))
        taken[[self.columns[item] for item in chosen.items()]] = 1.0
        return replace(self, cuts=(*self.cuts, Row(taken, len(chosen) - 0.5)))

    def fixed(self, chosen: Mapping[str, str]) -> Linear:
        """The same program with these choices taken."""
        upper = self.upper.copy()
        for (unit, choice), place in self.columns.items():
            upper[place] *= chosen.get(unit, choice) == choice
        return replace(self, upper=upper)

    def chosen(self, values: Vector) -> dict[str, str]:
        """Of each unit the choice with the largest binary."""
        return {
            unit.name: max(unit.choices, key=lambda choice: values[self.columns[unit.name, choice.name]]).name
            for unit in self.problem.units
        }


def linear(problem: Problem) -> Linear:
    """The program of a problem; its budgets are rows that the caller adds."""
    own: dict[str, list[Item]] = {unit.name: [(unit.name, choice.name) for choice in unit.choices] for unit in problem.units}
    columns = {item: place for place, item in enumerate(chain.from_iterable(own.values()))}
    rows: list[_Equation] = [({columns[item]: 1.0 for item in items}, 1.0) for items in own.values()]
    products: dict[frozenset[Item], int] = {}
    for one, other in dict.fromkeys((pair.first[0], pair.second[0]) for pair in problem.pairs):
        for sides in product(own[one], own[other]):
            products.setdefault(frozenset(sides), len(columns) + len(products))
        for items, others in ((own[one], own[other]), (own[other], own[one])):
            rows += [({**{products[frozenset((x, y))]: 1.0 for y in others}, columns[x]: -1.0}, 0.0) for x in items]
    size = len(columns) + len(products)
    loss, upper = np.zeros(size), np.ones(size)
    costs = {name: np.zeros(size) for name in problem.resources}

    def put(place: int, what: Choice | Pair) -> None:
        loss[place] += what.loss
        for name, value in what.costs.items():
            costs[name][place] += value

    for unit in problem.units:
        for choice in unit.choices:
            put(columns[unit.name, choice.name], choice)
    for pair in problem.pairs:
        place = products[frozenset((pair.first, pair.second))]
        put(place, pair)
        upper[place] *= not pair.forbidden
    return Linear(problem, columns, products, _matrix(rows, size), np.array([right for _, right in rows]), loss, costs, upper)


def minimise(
    model: Linear, objective: Vector, rows: Sequence[Row], *, scale: float = 0.0, gap: float = 0.0, deadline: float = math.inf
) -> Found:
    """The least ``objective @ x`` under the rows, by HiGHS.

    Args:
        scale: differences of the objective that matter are near it; 0 takes the objective's largest number.
        gap: relative, at which to stop.
        deadline: of `time.monotonic`, in seconds.

    Raises:
        PassError: HiGHS gave up, or the deadline passed before it found an answer.
    """
    factor = _SPAN / (scale or float(np.abs(objective).max(initial=0.0)) or 1.0)
    scaled = [_scaled(row) for row in (*rows, *model.cuts)]
    limits = [LinearConstraint(model.equal, model.right, model.right)] if model.equal.shape[0] else []
    if scaled:
        matrix = vstack([csr_array(row.values[None, :]) for row in scaled])
        limits.append(LinearConstraint(matrix, -np.inf, np.array([row.most for row in scaled])))
    integral = np.zeros(len(objective))
    integral[: len(model.columns)] = 1
    left = deadline - time.monotonic()
    options = {"mip_rel_gap": gap, **({"time_limit": max(left, 0.01)} if math.isfinite(left) else {})}
    with printing_to_stderr():  # HiGHS tells there of each answer that it repairs, whatever its options say
        result = milp(objective * factor, integrality=integral, bounds=Bounds(0.0, model.upper), constraints=limits, options=options)
    if result.status == _INFEASIBLE:
        return Found(None, math.inf)
    if result.x is None:
        late = result.status == _LIMIT
        what = "no answer was found in time" if late else f"HiGHS gave up: {result.message}"
        raise PassError(what, where=WHERE, way_on="allow more seconds, or solve by greedy" if late else "solve by greedy or dynamic")
    bound = result.fun if result.mip_dual_bound is None else result.mip_dual_bound
    return Found(model.chosen(result.x), bound / factor, _TOLERANCE / factor)


def best(
    model: Linear,
    objective: Vector,
    rows: Sequence[Row],
    accepts: Callable[[dict[str, str]], bool],
    *,
    scale: float = 0.0,
    gap: float = 0.0,
    deadline: float = math.inf,
) -> tuple[Linear, Found]:
    """The least ``objective @ x`` under the rows that `accepts` takes, and the program without those that it did not take.

    Raises:
        PassError: as `minimise`, or too many answers are right by HiGHS's tolerances alone.
    """
    for _ in range(_ATTEMPTS):
        found = minimise(model, objective, rows, scale=scale, gap=gap, deadline=deadline)
        if found.chosen is None or accepts(found.chosen):
            return model, found
        model = model.without(found.chosen)
    raise PassError(f"{_ATTEMPTS} answers exceed a budget by rounding alone", where=WHERE, way_on="solve by dynamic, or move the budget")


def _scaled(row: Row) -> Row:
    largest = max(float(np.abs(row.values).max(initial=0.0)), abs(row.most)) or 1.0
    return Row(row.values / largest, row.most / largest)


def _matrix(rows: Sequence[_Equation], size: int) -> csr_array:
    down = [row for row, (values, _) in enumerate(rows) for _ in values]
    across = [column for values, _ in rows for column in values]
    numbers = [number for values, _ in rows for number in values.values()]
    return coo_array((numbers, (down, across)), shape=(len(rows), size)).tocsr()
