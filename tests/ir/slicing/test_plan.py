"""A plan is checked against the program whose hash it carries, and survives JSON."""

from __future__ import annotations

import pytest
import torch
from coupled import captured
from fxpress_ir import Program
from fxpress_ir.errors import ProgramError
from fxpress_ir.slicing import Plan, mask_atoms, slice_atoms
from torch import nn


def program(seed: int = 0) -> Program:
    return captured(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(2, 3), seed=seed)


def test_a_plan_survives_json() -> None:
    plan = Plan.of(program(), {"0": (3, 1)})
    assert plan.keep == {"0": (1, 3)}
    assert Plan.from_json(plan.to_json()) == plan
    assert str(plan) == "0: 2 stay"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keep": 3, "program_hash": ""}', '{"keep": {"a": ["b"]}, "program_hash": ""}'])
def test_text_that_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(ProgramError, match=r"the text: is not a plan; pass what Plan\.to_json wrote"):
        Plan.from_json(text)


@pytest.mark.parametrize(
    ("keep", "what"),
    [
        ({"0": ()}, "group '0': no atom stays; keep one at least"),
        ({"0": (1, 1)}, "group '0': an atom is named twice"),
        ({"0": (4,)}, "group '0': has no atom 4; it has 4, from 0"),
        ({"0": (-1, 2)}, "group '0': has no atom -1"),
        ({"1": (0,)}, "there is no group '1'"),
        ({"2": (0,)}, "group '2': cannot shrink: output 0 carries it; leave it out"),
    ],
)
def test_what_a_program_cannot_lose_is_refused(keep: dict[str, tuple[int, ...]], what: str) -> None:
    for refuse in (Plan.of, slice_atoms, mask_atoms):
        with pytest.raises(ProgramError, match=what):
            refuse(program(), keep)


def test_a_plan_of_another_program_is_refused() -> None:
    plan = Plan.of(program(), {"0": (1, 2)})
    for apply in (slice_atoms, mask_atoms):
        apply(program(), plan)
        with pytest.raises(ProgramError, match="was made for another program; make it again"):
            apply(program(seed=1), plan)
