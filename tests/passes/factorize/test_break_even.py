"""Ranks are taken where a layer alone is faster split than whole; alike layers are measured once, by bisection."""

from __future__ import annotations

import pytest
import torch
from float_programs import Chain, captured, measured, operators, refusals
from fxpress_ir import Program
from fxpress_ir.errors import PassError
from fxpress_passes import Context, Factorize
from fxpress_passes.latency import TimeRatio
from torch import nn


class ByMacs:
    """A target on which each layer costs its MACs and a fixed overhead; it notes what it is asked about."""

    def __init__(self, overhead: int) -> None:
        self.overhead, self.asked = overhead, list[tuple[Program, Program]]()

    def __call__(self, program: Program) -> float:
        return program.cost().macs + self.overhead * len(operators(program))

    def ratio(self, program: Program, parent: Program) -> TimeRatio:
        self.asked.append((program, parent))
        ratio = self(program) / self(parent)
        return TimeRatio(ratio, ratio, ratio)


def _program() -> Program:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 16), nn.Linear(16, 16), nn.Linear(16, 16))
    return captured(Chain(*layers), 1, 3, 8, 8)


def test_by_ratio_only_ranks_that_pay_are_offered() -> None:
    """A layer of 16 x 16 at rank r costs 32 r for 256, so that with 100 for each layer the best that pays is 4."""
    latency = ByMacs(100)
    plan = Factorize(ratio=0.86, metric="plain", break_even=latency).decide(_program(), Context())
    small = [split.ranks[0] for split in plan.splits.values() if split.before == 256]
    assert small
    assert max(small) <= 4
    for split, whole in latency.asked:
        assert operators(whole) == operators(split)[:1]
        assert operators(split) == operators(whole) * 2
    shapes = [tuple(whole.inputs[0].shape) for _, whole in latency.asked if whole.cost().macs == 256]
    assert set(shapes) == {(1, 16)}
    assert len(shapes) <= 4  # two layers, alike: one bisection over seven ranks


def test_a_convolution_is_measured_at_its_sizes() -> None:
    latency = ByMacs(0)
    Factorize(ratio=0.5, metric="plain", break_even=latency).decide(_program(), measured(_program()))
    shapes = {tuple(map(int, whole.inputs[0].shape)) for _, whole in latency.asked}
    assert shapes == {(1, 3, 8, 8), (1, 256), (1, 16)}
    (conv,) = {whole.cost().macs for _, whole in latency.asked if len(whole.inputs[0].shape) == 4}
    assert conv == 27 * 16 * 16


def test_by_energy_the_rank_itself_is_asked_about() -> None:
    context, latency = Context(), ByMacs(10**6)
    program = _program()
    assert Factorize(energy=0.5, metric="plain", break_even=latency).apply(program, context) is program
    assert "linear: it is not faster on the target at rank" in refusals(context)[-3]
    with pytest.raises(PassError, match=r"ratio=0\.1 cannot be saved; at most 0\.000 can"):
        Factorize(ratio=0.1, metric="plain", break_even=latency).decide(program, context)
    assert refusals(context)[-1] == "linear_2: no rank takes fewer parameters and is faster on the target"
