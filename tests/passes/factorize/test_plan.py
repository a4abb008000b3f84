"""A rank plan is text and back; text that is none, and plans that do not fit the program, are errors that say where."""

from __future__ import annotations

import json

import pytest
from float_programs import Chain, captured, operators
from fxpress_ir import Program
from fxpress_ir.errors import PassError
from fxpress_passes import Context, Factorize
from fxpress_passes.factorize.plan import RankPlan, Split
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

sizes = st.integers(1, 2**40)
ranks = st.lists(sizes, min_size=1, max_size=2).map(tuple)
splits = st.builds(Split, st.sampled_from(["channel", "spatial", "tucker"]), ranks, sizes, sizes)
LINEAR = {"kind": "channel", "ranks": [2], "before": 48, "after": 28}


def _text(program_hash: str = "f00d", **splits: object) -> str:
    return json.dumps({"program_hash": program_hash, "splits": splits})


@given(st.dictionaries(st.text(), splits, max_size=4))
def test_a_plan_comes_back_from_its_text(found: dict[str, Split]) -> None:
    plan = RankPlan("f00d", found)
    assert RankPlan.from_json(plan.to_json()) == plan
    assert list(RankPlan.from_json(plan.to_json()).splits) == list(found)


def test_the_text_is_plain_json() -> None:
    plan = RankPlan("f00d", {"linear": Split("channel", (2,), 48, 28), "conv2d": Split("tucker", (3, 2), 864, 102)})
    splits = {"linear": LINEAR, "conv2d": {"kind": "tucker", "ranks": [3, 2], "before": 864, "after": 102}}
    assert json.loads(plan.to_json()) == {"program_hash": "f00d", "splits": splits}
    assert str(plan) == "linear: channel, ranks 2, 48 -> 28 parameters\nconv2d: tucker, ranks 3, 2, 864 -> 102 parameters"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no plan"),
        ("[]", "is no plan"),
        (json.dumps({"splits": {}}), "is no plan"),
        (json.dumps({"program_hash": "f00d", "linear": LINEAR}), "is no plan"),
        (_text(linear=3), "is no plan"),
        (_text(linear={"kind": "channel", "ranks": [2]}), "is no plan"),
        (_text(linear=LINEAR | {"ranks": 2}), "is no plan"),
        (_text(linear=LINEAR | {"ranks": ["two"]}), "whole numbers"),
        (_text(linear=LINEAR | {"after": 28.5}), "whole numbers"),
        (_text(linear=LINEAR | {"kind": "qr"}), r"layer linear: 'qr' is no decomposition; one of channel, spatial, tucker"),
    ],
)
def test_a_text_that_is_no_plan_is_an_error(text: str, message: str) -> None:
    with pytest.raises(PassError, match=message):
        RankPlan.from_json(text)


def _program() -> Program:
    return captured(Chain(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)), 1, 8)


def _cut(**layers: dict[str, object]) -> Program:
    program = _program()
    return Factorize(metric="plain").cut(program, RankPlan.from_json(_text(program.hash, **layers)), Context())


def test_only_the_layers_that_a_plan_names_are_cut() -> None:
    assert operators(_cut(linear=LINEAR)) == ["aten.linear", "aten.linear", "aten.relu", "aten.linear"]
    assert operators(_cut()) == ["aten.linear", "aten.relu", "aten.linear"]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gemm", {}, "the plan names 'gemm'; decide\\(\\) names those that are"),
        ("relu", {}, "the plan names 'relu'"),
        ("linear", {"ranks": [7]}, r"ranks \[7\] do not fit; give 1 of 1 to 6"),
        ("linear", {"ranks": [2, 2]}, r"ranks \[2, 2\] do not fit"),
        ("linear", {"kind": "spatial"}, "layer linear: kind=spatial: its kernel is not larger than 1 both ways; kind=channel suits every"),
        ("linear", {"kind": "tucker", "ranks": [2, 2]}, "layer linear: kind=tucker: its kernel is a single point"),
    ],
)
def test_a_plan_that_does_not_fit_the_program_is_an_error(name: str, change: dict[str, object], message: str) -> None:
    with pytest.raises(PassError, match=message):
        _cut(**{name: LINEAR | change})


def test_a_plan_of_another_program_is_an_error() -> None:
    with pytest.raises(PassError, match=r"factorize: the plan is for program f00d, this one is \w{12}; decide on this program"):
        Factorize(metric="plain").cut(_program(), RankPlan.from_json(_text(linear=LINEAR)), Context())
