"""Answers within aims, by what they are predicted to cost."""

from __future__ import annotations

from functools import cache

import pytest
from fxpress.joint.built import How, Weighing
from fxpress.joint.chooser import Chooser
from fxpress.joint.costs import Costs
from fxpress.joint.losses import Losses
from fxpress_ir.errors import InfeasibleError
from fxpress_passes.evidence.losses import divergence
from joint_net import counted
from two_layers import space


@cache
def chooser(steps: int = 10) -> Chooser:
    costs = Costs.measured(space(), counted(space()))  # type: ignore[arg-type]
    singles = Losses(space()).singles()
    return Chooser(space(), singles, {key: 2 * loss for key, loss in singles.items()}, costs, divergence, How(steps=steps))


@cache
def whole() -> dict[str, float]:
    return dict(chooser().predicted(chooser().answer({"size": 1e9}, Weighing())).costs)


@pytest.mark.parametrize("steps", [0, 10])
def test_an_answer_holds_its_aims_and_loses_more_where_less_is_left(steps: int) -> None:
    found = [chooser(steps).answer({"size": share * whole()["size"]}, Weighing()) for share in (1.0, 0.97, 0.94)]
    for share, answer in zip((1.0, 0.97, 0.94), found, strict=True):
        assert answer.costs["size"] <= share * whole()["size"] + 1e-9
    assert found[0].loss <= found[1].loss <= found[2].loss
    assert found[0].loss < found[2].loss


def test_what_is_lost_before_training_is_another_view() -> None:
    aims = {"latency": 0.7 * whole()["latency"]}
    after, before = (chooser().answer(aims, Weighing(trained=trained)) for trained in (True, False))
    assert (before.chosen, before.loss) == (after.chosen, pytest.approx(2 * after.loss))


def test_a_light_weight_turns_an_answer_to_channels() -> None:
    aims = {"latency": 0.9 * whole()["latency"]}
    heavy, light = (chooser().answer(aims, Weighing(weight)) for weight in (1e3, 1e-3))
    groups = [name for name in space().units if name not in space().layers]
    assert [heavy.chosen[name] for name in groups] == [space().nothing[name] for name in groups]
    assert [light.chosen[name] for name in groups] != [space().nothing[name] for name in groups]


def test_the_nearest_is_above_a_latency_by_no_more_than_predictions_may_be_wrong() -> None:
    own = chooser()
    with pytest.raises(InfeasibleError) as refused:
        own.answer({"latency": 1e-12}, Weighing())
    least = refused.value.nearest["latency"]
    near = own.nearest({"latency": least / 1.2}, Weighing())
    assert near.costs["latency"] == pytest.approx(least, rel=0.05)
    with pytest.raises(InfeasibleError, match="latency at most"):
        own.nearest({"latency": least / 1.4}, Weighing())
    with pytest.raises(InfeasibleError, match="size at most"):
        own.nearest({"size": 1.0}, Weighing())


def test_with_fewer_families_less_is_chosen_from() -> None:
    alone = chooser().only(("bits",)).answer({"size": 0.97 * whole()["size"]}, Weighing())
    assert all(choice.startswith("w") for choice in alone.chosen.values())
    assert set(alone.chosen) == set(space().layers)
