"""What reaches no output goes, at every stage; what does, and every input, stays."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from float_programs import applied, captured, operators, residual_program, untouched, with_dead_branch
from fxpress_ir import Program, capture, text
from fxpress_passes import Context, EliminateDeadCode
from support import built, residual_net
from torch import Tensor, nn


def test_before_and_expected() -> None:
    live = captured(lambda x: x.relu() + 1, 1, 3)
    before = with_dead_branch(live)
    assert "aten.sigmoid" in operators(before)
    assert "unnamed" in before.tensors
    after = applied(EliminateDeadCode(), before)
    assert text(after) == text(live)
    assert after.tensors.keys() == live.tensors.keys()


def test_a_chain_that_ends_nowhere_goes_with_its_tensors() -> None:
    program = residual_program()
    after = applied(EliminateDeadCode(), program)
    assert [name for name in operators(program) if name not in operators(after)] == ["aten.sigmoid"]
    assert program.tensors.keys() - after.tensors.keys() == {"unnamed"}
    assert all(after.tensors[name] is program.tensors[name] for name in after.tensors)


def test_an_unnamed_tensor_goes_alone() -> None:
    live = captured(torch.relu, 1, 3)
    program = Program(live.graph, {"unnamed": torch.ones(2)}, live.inputs)
    after = applied(EliminateDeadCode(), program)
    assert (text(after), len(after.tensors)) == (text(live), 0)


@pytest.mark.parametrize("stage", ["integer", "simulated"])
def test_later_stages_are_cleaned_too(stage: str) -> None:
    live = residual_net() if stage == "integer" else built((1, 3), lambda edit, x: edit.call(_FAKE, x, 0.1, -128, 127), stage=stage)
    after = EliminateDeadCode().apply(with_dead_branch(live), Context())
    assert (text(after), after.stage) == (text(live), stage)


_FAKE = torch.ops.fxp.fake_quantize.default


def test_an_input_that_nothing_reads_stays() -> None:
    class First(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x.relu()

    program = capture(First(), (torch.zeros(2), torch.zeros(3)))
    assert EliminateDeadCode().apply(program, Context()) is program
    after = applied(EliminateDeadCode(), with_dead_branch(program))
    assert [spec.name for spec in after.inputs] == ["x", "y"]


@pytest.mark.parametrize("make", [lambda: captured(lambda x: x.relu() + 1, 1, 3), residual_net], ids=["float", "integer"])
def test_a_live_program_comes_back_itself(make: Callable[[], Program]) -> None:
    program = make()
    with untouched(program):
        assert EliminateDeadCode().apply(program, Context()) is program
