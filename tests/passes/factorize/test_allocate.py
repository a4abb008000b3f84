"""Rungs are chosen so that a goal is reached at the least energy lost."""

from __future__ import annotations

from itertools import accumulate, product

import pytest
from fxpress_ir.errors import PassError
from fxpress_passes.factorize.allocate import by_energy, by_ratio
from fxpress_passes.low_rank.decompositions import Rung
from hypothesis import given
from hypothesis import strategies as st


def _rungs(losses: list[float], cost: int) -> list[Rung]:
    """Full rank first; `losses` of ranks from the full one down."""
    full = len(losses)
    return [Rung((full - place,), (full - place) * cost, lost) for place, lost in enumerate(losses)]


def test_the_smallest_rung_that_keeps_the_energy_is_taken() -> None:
    rungs = _rungs([0.0, 0.01, 0.05, 0.3], 10)
    assert [by_energy(rungs, energy).ranks for energy in (1.0, 0.99, 0.96, 0.95, 0.5)] == [(4,), (3,), (3,), (2,), (1,)]


def test_what_rounding_adds_is_not_kept() -> None:
    assert by_energy(_rungs([0.0, 1e-14, 0.2], 10), 1.0).ranks == (2,)


convex = st.lists(st.floats(0.001, 1), min_size=1, max_size=5).map(lambda steps: list(accumulate(sorted(steps))))


@given(st.lists(convex, min_size=1, max_size=3), st.floats(0.05, 0.9))
def test_of_convex_losses_and_equal_steps_the_choice_is_the_best_there_is(losses: list[list[float]], ratio: float) -> None:
    rungs = {str(place): _rungs(lost, 10) for place, lost in enumerate(losses)}
    dense = {name: len(found) * 10 + 10 for name, found in rungs.items()}
    choices = list(product(*([Rung((), dense[name], 0.0), *found] for name, found in rungs.items())))
    enough = [choice for choice in choices if sum(dense.values()) - sum(rung.parameters for rung in choice) >= ratio * sum(dense.values())]
    if not enough:
        with pytest.raises(PassError):
            by_ratio(rungs, dense, ratio)
        return
    chosen = by_ratio(rungs, dense, ratio)
    saved = sum(dense[name] - rung.parameters for name, rung in chosen.items())
    assert saved >= ratio * sum(dense.values())
    best = min(sum(rung.lost for rung in choice) for choice in enough)
    assert sum(rung.lost for rung in chosen.values()) == pytest.approx(best)


def test_the_layer_that_loses_less_gives_first() -> None:
    rungs = {"good": _rungs([0.0, 0.001, 0.002], 10), "bad": _rungs([0.0, 0.3, 0.6], 10)}
    chosen = by_ratio(rungs, {"good": 40, "bad": 40}, 0.3)
    assert {name: rung.ranks for name, rung in chosen.items()} == {"good": (2,), "bad": (3,)}


losses = st.lists(st.floats(0, 1), min_size=1, max_size=5).map(sorted)


@given(st.lists(losses, min_size=1, max_size=3), st.lists(st.integers(1, 20), min_size=3, max_size=3), st.floats(0.05, 0.9))
def test_of_any_losses_and_costs_the_choice_is_less_than_one_step_from_the_best(
    lost: list[list[float]], costs: list[int], ratio: float
) -> None:
    rungs = {str(place): _rungs(one, cost) for place, (one, cost) in enumerate(zip(lost, costs, strict=False))}
    dense = {name: found[0].parameters + 1 for name, found in rungs.items()}
    choices = list(product(*([Rung((), dense[name], 0.0), *found] for name, found in rungs.items())))
    whole = sum(dense.values())
    enough = [choice for choice in choices if whole - sum(rung.parameters for rung in choice) >= ratio * whole]
    best = min((sum(rung.lost for rung in choice) for choice in enough), default=None)
    if best is None:
        with pytest.raises(PassError):
            by_ratio(rungs, dense, ratio)
        return
    chosen = by_ratio(rungs, dense, ratio)
    assert sum(dense[name] - rung.parameters for name, rung in chosen.items()) >= ratio * whole
    assert best - 1e-9 <= sum(rung.lost for rung in chosen.values()) <= best + max(rung.lost for rung in chosen.values()) + 1e-9


def test_a_ratio_that_no_rungs_save_says_how_much_they_can() -> None:
    with pytest.raises(PassError, match=r"ratio=0.9 cannot be saved; at most 0.750 can"):
        by_ratio({"one": _rungs([0.0, 0.1, 0.5], 10)}, {"one": 40}, 0.9)
