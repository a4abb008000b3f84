"""Refining takes what is measured better, within the budgets, and never what is worse than where it began."""

from __future__ import annotations

import torch
from float_programs import Chain, captured
from fxpress_passes import Context
from fxpress_passes.allocate.answer import Answer
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.quantize.allocate_bits import AllocateBits
from fxpress_passes.quantize.layer_choices import layers_of
from fxpress_passes.quantize.refine import Refine
from torch import nn


def test_a_bad_start_is_left_for_a_better_answer() -> None:
    torch.manual_seed(0)
    program = captured(Chain(nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 4)), 2, 12)
    generator = torch.Generator().manual_seed(1)
    context = Context(Evidence(Calibration([(torch.randn(64, 12, generator=generator),)])))
    item = AllocateBits(average=4.0, edges="", choices=("w6", "w5", "w4", "w3", "w2"))
    problem = item.problem(program, context)
    names = [unit.name for unit in problem.units]
    bad = Answer.of(problem, dict.fromkeys(names, "w2a8"), "milp")
    search = Refine(program, {layer.names[0]: layer for layer in layers_of(program)}, context, "divergence")
    found = search.better(problem, bad, 4)
    uniform = search.measured(dict.fromkeys(names, "w4a8"))
    assert found.loss <= uniform < search.measured(bad.chosen)
    assert found.loss == search.measured(found.chosen)
    assert problem.holds(problem.costs(found.chosen))
    assert search.better(problem, found, 0).chosen == found.chosen
