"""Each measure puts the coarser choice above the finer one, and is what its formula says on a linear layer."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from float_programs import Chain, captured
from fxpress_ir import Program
from fxpress_passes import Context
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.evidence.sensitivity import MEASURES, Asked, Perturbation, interactions, superposed
from fxpress_passes.evidence.sensitivity.measured import distance
from torch import Tensor, nn


def _asked(program: Program, *perturbations: Perturbation, loss: str = "divergence") -> Asked:
    generator = torch.Generator().manual_seed(1)
    shape = [int(size) for size in program.example()[0].shape[1:]]
    batches = [(torch.randn(32, *shape, generator=generator),) for _ in range(2)]
    return Asked(program, perturbations, Context(Evidence(Calibration(batches))), loss)


def _rounded(program: Program, name: str, step: float) -> Perturbation:
    weight = program.tensors[name].detach()
    return Perturbation(f"{name} {step}", lambda: {name: torch.round(weight / step) * step})


def _weights(program: Program) -> list[str]:
    return [name for name in program.tensors if name.endswith("weight")]


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return captured(Chain(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5)), 2, 8)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_coarser_grid_costs_more(program: Program, measure: str) -> None:
    choices = [_rounded(program, name, step) for name in _weights(program) for step in (0.01, 0.3)]
    found = MEASURES[measure](_asked(program, *choices))
    assert list(found) == [choice.name for choice in choices]
    for fine, coarse in zip(choices[::2], choices[1::2], strict=True):
        assert 0 <= found[fine.name] < found[coarse.name]


def test_the_trace_of_squares_is_exact_for_a_linear_layer() -> None:
    """L = ||dW x||^2 / 2: the Hessian is E[x x^T] for each row, so Tr / n * ||dW||^2 = E||x||^2 / columns * ||dW||^2."""
    torch.manual_seed(0)
    program = captured(Chain(nn.Linear(6, 4, bias=False)), 2, 6)
    (name,) = _weights(program)
    asked = _asked(program, _rounded(program, name, 0.2), loss="squares")
    change = next(iter(asked.changes(asked.perturbations[0]).values()))
    inputs = torch.cat([batch[0] for batch in asked.batches])
    expected = float(inputs.square().sum(1).mean()) / 6 * float(change.square().sum())
    assert next(iter(MEASURES["hessian-trace"](asked).values())) == pytest.approx(expected, rel=0.1)
    moved = float((inputs @ change.T).square().sum(1).mean()) / 2
    assert next(iter(distance(asked).values())) == pytest.approx(moved, rel=1e-4)


def test_interactions_are_what_an_additive_model_leaves_out() -> None:
    """Two choices that undo each other in the sum of two branches cost nothing together."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x) + self.other(x)

    torch.manual_seed(0)
    program = captured(Branches(), 2, 3)
    one, other = _weights(program)
    raised = Perturbation("up", lambda: {one: program.tensors[one].detach() + 0.1})
    lowered = Perturbation("down", lambda: {other: program.tensors[other].detach() - 0.1})
    asked = _asked(program, raised, lowered, loss="squares")
    alone = distance(asked)
    found = interactions(asked, alone, [(raised, lowered)])
    assert found["up", "down"] == pytest.approx(-alone["up"] - alone["down"], rel=1e-4)


def test_random_masks_are_those_of_the_seed(program: Program) -> None:
    asked = _asked(program, _rounded(program, _weights(program)[0], 0.3))
    assert MEASURES["masked"](asked) == MEASURES["masked"](asked)


class _Sum(nn.Module):
    """Two branches; what is done to both adds in the output."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) + self.other(x)


@pytest.mark.parametrize("loss", ["squares", "divergence"])
def test_superposed_moves_tell_what_several_choices_cost_together(loss: str) -> None:
    torch.manual_seed(0)
    program = captured(_Sum(), 2, 3)
    one, other = _weights(program)
    base = {one: program.tensors[one].detach() + 0.01 * torch.randn(4, 3)}
    steps = {name: program.tensors[name].detach() + 0.02 * torch.randn(4, 3) for name in (one, other)}
    choices = [Perturbation(name, lambda name=name: {name: steps[name]}) for name in steps]  # type: ignore[misc]
    both = Perturbation("both", lambda: steps)
    asked = _asked(program, *choices, loss=loss)
    around = superposed(replace(asked, base=base))
    assert torch.equal(superposed(asked)[0], torch.zeros(3, dtype=torch.float64))
    exact = distance(replace(asked, perturbations=[*choices, both], base=base))
    start = distance(replace(asked, perturbations=[Perturbation("none", dict)], base=base))["none"]
    # `superposed` takes the mean of rows, as the divergence does and the squares of a sample's one row
    assert float(around[0, 0]) / 2 == pytest.approx(start, rel=0.02)
    for place, choice in enumerate(choices, start=1):
        both_rows = around[[0, place]][:, [0, place]]
        assert float(both_rows.sum()) / 2 == pytest.approx(exact[choice.name], rel=0.02)
    assert float(around.sum()) / 2 == pytest.approx(exact["both"], rel=0.02)


def test_drawn_rows_are_enough_for_inner_products(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    program = captured(_Sum(), 2, 3)
    asked = _asked(program, *(_rounded(program, name, 0.2) for name in _weights(program)), loss="squares")
    whole = superposed(asked)
    monkeypatch.setattr(sys.modules["fxpress_passes.evidence.sensitivity.superposed"], "_MOST", 3 * 4 * 16)
    half = superposed(asked)
    assert not torch.equal(half, whole)
    assert torch.allclose(half, whole, rtol=0.5, atol=0.1 * float(whole.abs().max()))
