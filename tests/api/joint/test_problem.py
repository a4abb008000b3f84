"""space, losses, costs ==> a problem whose sums are what programs built from answers take."""

from __future__ import annotations

import random
from functools import cache

import pytest
from fxpress.joint.costs import Costs
from fxpress.joint.losses import Losses
from fxpress.joint.problem import problem_of
from fxpress.joint.search import improved
from fxpress.joint.space import LEAVES, STAYS, group_unit
from fxpress_ir.errors import InfeasibleError
from fxpress_passes.allocate import Milp, Problem
from joint_net import counted, space, taken
from two_layers import beside


@cache
def costs() -> Costs:
    return Costs.measured(space(), counted(space()))  # type: ignore[arg-type]


@cache
def free() -> Problem:
    return problem_of(space(), singles(), costs(), {})


@cache
def singles() -> dict[tuple[str, str], float]:
    return Losses(space()).singles()


def measured(chosen: dict[str, str]) -> tuple[float, float]:
    plan, cut = space().built(chosen)
    found = taken(space(), cut, dict(plan.bits))
    assert found.seconds is not None
    return found.size, sum(found.seconds.values())


def test_nothing_chosen_costs_what_the_whole_program_takes() -> None:
    size, seconds = measured(space().nothing)
    found = free().costs(space().nothing)
    assert found["size"] == pytest.approx(size)
    assert found["latency"] == pytest.approx(seconds)
    assert free().loss(space().nothing) < 1e-4


@pytest.mark.parametrize("seed", range(6))
def test_predicted_costs_are_those_of_the_program(seed: int) -> None:
    draw, units = random.Random(seed), {unit.name: [choice.name for choice in unit.choices] for unit in free().units}
    chosen = {name: draw.choice(choices) for name, choices in units.items()}
    for name in space().blocks:
        chosen[name] = STAYS
    size, seconds = measured(chosen)
    found = problem_of(space(), singles(), costs(), {}, chosen).costs(chosen)
    # ranks of layers that lost channels are rounded to few numbers
    assert found["size"] == pytest.approx(size, rel=0.2)
    assert found["latency"] == pytest.approx(seconds, rel=0.2)


def test_a_block_that_leaves_takes_its_layers_along() -> None:
    block = next(iter(space().blocks))
    size, seconds = measured({block: LEAVES})
    found = free().costs({**space().nothing, block: LEAVES})
    assert found["size"] == pytest.approx(size)
    assert found["latency"] == pytest.approx(seconds)


@pytest.mark.parametrize(("left", "right"), [(0.5, 0.5), (0.25, 0.25), (0.75, 0.25)])
def test_what_two_parts_of_a_concatenation_take_adds_up(left: float, right: float) -> None:
    own = beside()
    costs = Costs.measured(own, counted(own))  # type: ignore[arg-type]
    chosen = {**own.nothing, group_unit("left"): f"keep {left}", group_unit("right"): f"keep {right}"}
    plan, cut = own.built(chosen)
    found = problem_of(own, dict.fromkeys(((unit, choice) for unit in own.units for choice in own.units[unit]), 0.0), costs, {}, chosen)
    assert found.costs(chosen)["size"] == pytest.approx(taken(own, cut, dict(plan.bits)).size)


def test_no_choice_that_another_beats_is_left() -> None:
    for unit in free().units:
        if unit.name in space().layers:
            for choice in unit.choices:
                others = [other for other in unit.choices if other is not choice]
                costs = list(choice.costs)
                assert not any(
                    other.loss <= choice.loss and all(other.costs[name] <= choice.costs[name] for name in costs) for other in others
                )


def test_both_budgets_hold_in_what_is_built() -> None:
    whole = free().costs(space().nothing)
    problem = free().within({name: 0.6 * value for name, value in whole.items()})
    answer = Milp().solve(problem)
    size, seconds = measured(dict(answer.chosen))
    assert answer.gap == 0
    assert size <= 1.1 * problem.budgets["size"]
    assert seconds <= 1.1 * problem.budgets["latency"]
    losses = Losses(space())
    better = improved(problem, answer, Milp(), losses.of, 2)
    assert better.loss <= losses.of(answer.chosen)
    assert problem.holds(better.costs)


def test_all_families_lose_no_more_than_one() -> None:
    """At one budget of size and latency, a larger set of choices has an optimum that is no worse."""
    whole = free().costs(space().nothing)
    answer = Milp().solve(free().within({"latency": 0.7 * whole["latency"], "size": 0.7 * whole["size"]}))
    for family in ("ranks", "channels"):
        alone = Milp().solve(problem_of(space().only((family,)), singles(), costs(), answer.budgets))
        assert answer.loss <= alone.loss + 1e-9
        assert {alone.chosen[name][-2:] for name in space().layers} == {"w8"}


def test_a_budget_below_all_choices_says_the_nearest() -> None:
    with pytest.raises(InfeasibleError, match=r"latency at most .* cannot be held; the nearest is latency"):
        Milp().solve(free().within({"latency": 1e-9}))
