"""Weights drawn anew: the same zeros, nothing else of the old ones."""

from __future__ import annotations

import torch
from float_programs import Chain, captured, untouched
from fxpress_passes import Context, Sparsify
from fxpress_passes.recover.roles import roles
from fxpress_passes.recover.scratch import from_scratch
from torch import nn


def test_zeros_stay_and_the_rest_begins_anew() -> None:
    net = Chain(nn.Conv2d(4, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 4, 3))
    nn.init.normal_(net[1].weight)
    program = Sparsify(score="magnitude", skip_ends=False).apply(captured(net, 2, 4, 4, 4), Context())
    with untouched(program):
        fresh, again = (from_scratch(program, roles(program), torch.Generator().manual_seed(77)) for _ in range(2))
    assert fresh.hash == again.hash != program.hash
    for name in ("0.weight", "4.weight"):
        old, new = program.tensors[name], fresh.tensors[name]
        assert torch.equal(new != 0, old != 0)
        assert not bool((new == old)[old != 0].any())
    assert abs(float(fresh.tensors["0.weight"].square().sum() / (64 * 18)) * 36 - 1) < 0.1
    assert fresh.tensors["1.weight"].tolist() == [1.0] * 64
    assert fresh.tensors["1.bias"].tolist() == fresh.tensors["0.bias"].tolist() == [0.0] * 64
