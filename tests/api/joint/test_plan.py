"""JointPlan <==> JSON; it replays on its program, its data and with its seed, and on no other."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from fxpress.joint import JointPlan
from fxpress.joint.plan import digest_of
from fxpress.joint.space import LEAVES, group_unit
from fxpress_ir import capture
from fxpress_ir.errors import PassError
from fxpress_passes import Context
from fxpress_passes.evidence import Calibration, Evidence
from joint_net import batches, context, original, space


def decided() -> JointPlan:
    own = space()
    chosen = {"conv2d_1": "r0.5 w4", group_unit("blocks.2.first"): "keep 0.5", next(iter(own.blocks)): LEAVES}
    return own.built(chosen)[0]


def test_a_plan_replays_to_the_same_program() -> None:
    plan = JointPlan.from_json(replace(decided(), steps=7).to_json())
    assert plan == replace(decided(), steps=7)
    again = plan.cut(original(), context())
    assert again.hash == plan.cut(original(), context()).hash
    expected = space().built({"conv2d_1": "r0.5 w4", group_unit("blocks.2.first"): "keep 0.5", next(iter(space().blocks)): LEAVES})[1]
    assert torch.equal(again.run(*batches()[0])[0], expected.run(*batches()[0])[0])


def test_it_prints_what_leaves() -> None:
    text = str(decided())
    assert "blocks.2.first: 16 stay" in text
    assert "leaves" in text
    assert "conv2d_1: rank" in text


def test_another_program_is_refused() -> None:
    other = capture(torch.nn.Linear(3, 3), (torch.randn(1, 3),))
    with pytest.raises(PassError, match="was made for program"):
        decided().cut(other, context())


def test_a_block_that_is_not_there_is_refused() -> None:
    plan = replace(decided(), keep={}, remove=(("x", "y"),))
    with pytest.raises(PassError, match="no block x ==> y"):
        plan.cut(original(), context())


def test_another_seed_and_other_data_are_refused() -> None:
    with pytest.raises(PassError, match="was made with seed 0, not 1"):
        decided().cut(original(), replace(context(), seed=1))
    with pytest.raises(PassError, match="was made on calibration data"):
        decided().cut(original(), Context(Evidence(Calibration(batches()[1:]))))


def test_a_digest_tells_batches_and_their_order_apart() -> None:
    found = [digest_of(Calibration(data), original()) for data in (batches(), batches(), batches()[::-1], batches()[:2])]
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_a_plan_without_seed_or_data_is_none() -> None:
    for key in ("seed", "calibration"):
        with pytest.raises(PassError, match=f"is no plan: it lacks '{key}'"):
            JointPlan.from_json(json.dumps({name: value for name, value in json.loads(decided().to_json()).items() if name != key}))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"program_hash": "a", "seed": 0, "calibration": "", "keep": {"g": ["x"]}, "remove": [], "ranks": {}, "bits": {}, "steps": 0}',
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(PassError, match="is no plan"):
        JointPlan.from_json(text)
