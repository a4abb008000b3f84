"""Training moves what may move, towards what is wanted, the same way each time."""

from __future__ import annotations

import pytest
import torch
from float_programs import captured, sample
from fxpress_ir.errors import PassError
from fxpress_passes.fuse.injected import Free, Injected
from fxpress_passes.fuse.probe import probe
from fxpress_passes.fuse.reconstruct import reconstruct
from torch import Tensor, nn


def layer(seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(4, 3)


def fitted(rate: float = 0.05, steps: int = 60) -> tuple[float, float, list[int]]:
    """The error before and after, and the steps that were told."""
    program, goal = captured(layer(0), 2, 4), captured(layer(1), 2, 4)
    module, wanted = probe(program, ["linear"]), probe(goal, ["linear"])
    data = [sample(program, 8, seed) for seed in range(3)]
    weight, bias = program.tensors["weight"], program.tensors["bias"]
    trained: dict[str, Injected | Free] = {
        "weight": Injected(weight, torch.ones_like(weight), 2, 2, torch.Generator().manual_seed(0)),
        "bias": Free(bias),
    }
    told: list[int] = []
    found = reconstruct(module, wanted, trained, lambda: data, steps, rate, told.append)
    assert torch.equal(module.weight, weight)  # type: ignore[arg-type]

    def error(tensors: dict[str, Tensor]) -> float:
        (x,) = sample(program, 32, 9)
        return float((torch.nn.functional.linear(x, tensors["weight"], tensors["bias"]) - wanted(x)[0]).square().mean())

    return error({name: tensor.detach() for name, tensor in program.tensors.items()}), error(dict(found)), told


def test_it_comes_nearer_and_gives_the_same_bits_again() -> None:
    before, after, told = fitted()
    assert after < 0.05 * before
    assert told == list(range(1, 61))
    assert fitted()[1] == after


def test_a_rate_that_explodes_is_an_error() -> None:
    with pytest.raises(PassError, match=r"fuse-blocks: the error is (nan|inf) at step .*; a lower rate"):
        fitted(rate=1e30)
