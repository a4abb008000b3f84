"""A plan is bits that can be read, saved and replayed, on its own program only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from float_programs import Chain, captured, measured, untouched
from fxpress_ir import Program
from fxpress_ir.errors import PassError
from fxpress_passes import Context, Sparsify
from fxpress_passes.prune.plan import SparsityPlan, cut
from torch import nn


def _program(seed: int = 0) -> Program:
    torch.manual_seed(seed)
    return captured(Chain(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 3)), 2, 5)


@pytest.mark.parametrize("score", ["magnitude", "sparsegpt"])
def test_a_plan_that_was_saved_gives_the_same_program(score: str, tmp_path: Path) -> None:
    program = _program()
    plan = Sparsify(score=score, sparsity=0.4).decide(program, measured(program))
    plan.save(tmp_path / "plan.safetensors")
    again = SparsityPlan.load(tmp_path / "plan.safetensors")
    with untouched(program):
        assert cut(program, plan).hash == cut(program, again).hash != program.hash
    assert str(again) == str(plan) == "2.weight [7, 7]: 42.9% zeros"


def test_masks_are_packed_eight_to_a_byte() -> None:
    program, mask = _program(), torch.rand(7, 7) > 0.5
    plan = SparsityPlan.of(program, {"2.weight": mask}, {})
    assert plan.bits["2.weight"].shape == (7,)
    assert torch.equal(plan.mask("2.weight"), mask)


def test_only_what_goes_changes() -> None:
    program, mask = _program(), torch.rand(7, 7) > 0.5
    after = cut(program, SparsityPlan.of(program, {"2.weight": mask}, {}))
    assert torch.equal(after.tensors["2.weight"], program.tensors["2.weight"].detach() * mask)
    assert all(after.tensors[name] is program.tensors[name] for name in program.tensors if name != "2.weight")


def test_a_plan_for_another_program_is_refused() -> None:
    plan = Sparsify(score="magnitude").decide(_program(), Context())
    with pytest.raises(PassError, match=r"^sparsify: the plan is for program \w{12}, this one is \w{12}; decide on this program$"):
        cut(_program(1), plan)


def test_a_file_that_is_no_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PassError, match="cannot be read"):
        SparsityPlan.load(tmp_path / "none")
    (tmp_path / "text").write_text("no plan")
    with pytest.raises(PassError, match="no intact sparsity plan"):
        SparsityPlan.load(tmp_path / "text")
    with pytest.raises(PassError, match="cannot be written"):
        Sparsify(score="magnitude").decide(_program(), Context()).save(tmp_path / "no" / "folder")
