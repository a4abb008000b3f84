"""Hutchinson's estimate is near the exact trace by `torch.func`, its interval holds it, and walks merge."""

from __future__ import annotations

import math

import pytest
import torch
from float_programs import Chain, captured
from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError
from fxpress_passes.evidence.hessian_trace import HessianTraces, Trace
from fxpress_passes.evidence.losses import LOSSES
from torch import Tensor, nn
from torch.func import functional_call, hessian


def _program() -> Program:
    torch.manual_seed(0)
    return captured(Chain(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 4)), 2, 1, 4, 4)


def _batches(count: int = 2) -> list[tuple[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 1, 4, 4, generator=generator),) for _ in range(count)]


def _exact(program: Program, name: str, loss: str, batch: tuple[Tensor]) -> float:
    """The trace of the whole Hessian by forward over reverse."""

    def of(weight: Tensor) -> Tensor:
        return LOSSES[loss](functional_call(program.module, {name: weight}, batch), batch)

    weight = program.tensors[name].detach()
    whole = hessian(of)(weight).reshape(weight.numel(), weight.numel())
    return float(torch.trace(whole))


@pytest.mark.parametrize("loss", ["divergence", "squares", "cross-entropy"])
def test_the_trace_is_within_five_percent_of_the_exact_one(loss: str) -> None:
    program, batches = _program(), _batches()
    names = [name for name in program.tensors if name.endswith("weight")]
    assert len(names) == 2
    observer = HessianTraces(program, names, LOSSES[loss], draws=1000, seed=0)
    for batch in batches:
        observer.observe(batch)
    for name in names:
        exact = sum(_exact(program, name, loss, batch) for batch in batches) / len(batches)
        trace = observer.found[name]
        assert trace.mean == pytest.approx(exact, rel=0.05)
        low, high = trace.interval(0.999)
        assert low <= exact <= high
        assert high - low < abs(exact)
        assert (trace.size, trace.count) == (program.tensors[name].numel(), 2000)


def test_the_trace_by_what_a_node_gives_is_the_mean_of_single_samples() -> None:
    program, (batch, *_) = _program(), _batches()
    observer = HessianTraces(program, (), LOSSES["squares"], nodes=["tanh"], draws=600)
    observer.observe(batch)
    weight = program.tensors[next(name for name in program.tensors if program.tensors[name].shape == (4, 12))].detach()
    assert observer.found["tanh"].mean == pytest.approx(float(weight.square().sum()), rel=0.05)  # J is the weight
    assert observer.found["tanh"].size == 12


def test_draws_are_those_of_the_seed_and_the_place() -> None:
    program, batches = _program(), _batches()
    name = next(iter(program.tensors))

    def found(seed: int) -> float:
        observer = HessianTraces(program, [name], LOSSES["divergence"], draws=2, seed=seed)
        for batch in batches:
            observer.observe(batch)
        return observer.found[name].mean

    assert found(0) == found(0) != found(1)


def test_merged_draws_are_those_of_one_walk() -> None:
    values = torch.randn(7, generator=torch.Generator().manual_seed(0)).double()
    single = [Trace(5, 1, float(value), 0.0) for value in values]
    whole = single[0]
    for one in single[1:]:
        whole = whole.merge(one)
    assert whole.mean == pytest.approx(float(values.mean()))
    assert whole.eigenvalue == pytest.approx(float(values.mean()) / 5)
    assert whole.squares == pytest.approx(float((values - values.mean()).square().sum()))
    assert single[0].interval() == (-math.inf, math.inf)


def test_attention_has_a_second_derivative() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.Linear(8, 24)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.parts(x).chunk(3, -1))
            return nn.functional.scaled_dot_product_attention(q, k, v).flatten(1)

    torch.manual_seed(0)
    program = captured(Attends(), 2, 5, 8)
    name = next(name for name in program.tensors if name.endswith("weight"))
    observer = HessianTraces(program, [name], LOSSES["squares"], draws=4)
    observer.observe((torch.randn(3, 5, 8),))
    assert observer.found[name].mean > 0


def test_a_loss_that_knows_no_weights_is_refused() -> None:
    program = _program()
    with pytest.raises(CalibrationError, match="no scalar that depends on the weights; give one that is"):
        HessianTraces(program, list(program.tensors), lambda outputs, batch: torch.zeros(())).observe(_batches()[0])
