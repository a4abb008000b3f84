"""Power iteration finds the largest eigenvalue of the exact block to 1e-3."""

from __future__ import annotations

import pytest
import torch
from float_programs import Chain, captured
from fxpress_passes.evidence.eigenvalue import top_eigenvalue
from fxpress_passes.evidence.losses import LOSSES
from torch import Tensor, nn
from torch.func import functional_call, hessian


@pytest.mark.parametrize("loss", ["divergence", "squares"])
@pytest.mark.parametrize("place", [0, 1])
def test_it_is_that_of_the_dense_block(loss: str, place: int) -> None:
    torch.manual_seed(0)
    program = captured(Chain(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)), 2, 6)
    name = [name for name in program.tensors if name.endswith("weight")][place]
    batches = [(torch.randn(16, 6, generator=torch.Generator().manual_seed(seed)),) for seed in range(2)]
    weight = program.tensors[name].detach()

    def of(value: Tensor) -> Tensor:
        parts = [LOSSES[loss](functional_call(program.module, {name: value}, batch), batch) for batch in batches]
        return torch.stack(parts).mean()

    dense = hessian(of)(weight).reshape(weight.numel(), weight.numel())
    largest = float(torch.linalg.eigvalsh(dense.double())[-1])
    assert top_eigenvalue(program, name, batches, LOSSES[loss], tolerance=1e-7, most=2000) == pytest.approx(largest, rel=1e-3)


def test_a_weight_that_changes_nothing_has_eigenvalue_zero() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x) + 0.0 * self.idle(x)

    program = captured(Idle(), 2, 3)
    name = next(name for name in program.tensors if "idle.weight" in name)
    assert top_eigenvalue(program, name, [(torch.ones(2, 3),)], LOSSES["squares"]) == 0.0
