"""Choices ==> losses: those of the network with exactly the weights that they round, nothing where nothing is chosen."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from fxpress.joint.losses import Losses, rounded
from fxpress.joint.space import STAYS, WHOLE, group_unit
from fxpress_ir.errors import PassError
from torch import Tensor, nn
from two_layers import BATCHES, Net, space


def by_hand(weight: Tensor, bits: int) -> Tensor:
    """Each row at its own scale, its largest entry the largest integer."""
    most = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(1, keepdim=True) / most
    return (weight / scale).round().clamp(-most, most) * scale


def divergence(net: nn.Module, other: nn.Module) -> float:
    total = 0.0
    for (x,) in BATCHES:
        p, q = net(x).softmax(-1), other(x).softmax(-1)
        total += float((p * (p.log() - q.log())).sum(-1).mean())
    return total / len(BATCHES)


@torch.no_grad()
def test_a_layers_bits_lose_what_the_network_with_its_weight_rounded_loses() -> None:
    net, singles = Net().eval(), Losses(space()).singles()
    for unit, name in (("linear", "first"), ("linear_1", "second")):
        for bits in (8, 3):
            other = deepcopy(net)
            layer = other.get_submodule(name)
            layer.weight.copy_(by_hand(layer.weight, bits))
            assert singles[unit, f"w{bits}"] == pytest.approx(divergence(net, other), rel=1e-3, abs=1e-7)
    assert singles["linear", "w3"] > 10 * singles["linear", "w8"]


@torch.no_grad()
def test_all_choices_together_lose_what_the_network_with_all_of_them_loses() -> None:
    net, own = Net().eval(), space()
    other = deepcopy(net)
    other.first.weight.copy_(by_hand(other.first.weight, 3))
    other.second.weight.copy_(by_hand(other.second.weight, 8))
    keep = own.atoms["first"][0.5]
    gone = [row for row in range(16) if row not in keep]
    assert Losses(own).of({"linear": "w3"}) == pytest.approx(divergence(net, other), rel=1e-3)
    # channels that leave are rows and columns of zeros; what is left keeps its rows' scales
    other.first.weight[gone], other.first.bias[gone] = 0, 0
    other.second.weight.copy_(net.second.weight)
    other.second.weight[:, gone] = 0
    other.second.weight.copy_(by_hand(other.second.weight, 8))
    assert Losses(own).of({"linear": "w3", group_unit("first"): "keep 0.5"}) == pytest.approx(divergence(net, other), rel=1e-3)


def test_nothing_chosen_loses_nothing() -> None:
    own = space()
    losses = Losses(own)
    assert losses.measured(own.program, {}) == 0
    assert losses.measured(own.program, rounded(own.program, {})) == 0
    assert {value for (_, choice), value in losses.singles().items() if choice in (WHOLE, STAYS)} == {0.0}


def test_ranks_and_bits_of_one_layer_are_added() -> None:
    own = space()
    singles = Losses(own).singles()
    assert "linear" in own.ranked
    rank = singles["linear", "r0.5 w3"] - singles["linear", "w3"]
    assert rank > 0
    assert rank == pytest.approx(singles["linear", "r0.5 w8"] - singles["linear", "w8"])


def test_outputs_that_are_nan_are_refused() -> None:
    own = space()
    nan = {name: torch.full_like(value, torch.nan) for name, value in own.program.tensors.items() if value.dim() == 2}
    with pytest.raises(PassError, match="outputs are NaN or infinite; repair the model and the data"):
        Losses(own).measured(own.program, nan)
    with pytest.raises(PassError, match="outputs are NaN"):
        Losses(replace(own), lambda original, other: (original - other).sum() / 0).measured(own.program, {})
