"""Bits are chosen within budgets, replay without the search, and budgets that cannot be held are named."""

from __future__ import annotations

import pytest
import torch
from float_programs import Chain, captured
from fxpress_ir import Program
from fxpress_ir.errors import InfeasibleError, PassError, PipelineError
from fxpress_passes import Context, PlaceQuantizers
from fxpress_passes.allocate.answer import Answer
from fxpress_passes.contract import difference
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.pipeline import Pipeline
from fxpress_passes.quantize.allocate_bits import AllocateBits
from fxpress_passes.quantize.precision import Precision
from torch import Tensor, nn

NAMES = ("linear", "linear_1", "linear_2", "linear_3")


class _Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.faint, self.loud, self.last = (nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.last(torch.relu(self.faint(x) * 0.01 + self.loud(x)))


@pytest.fixture(scope="module")
def program() -> Program:
    """One layer hardly counts: its result is added after a factor of 1/100."""
    torch.manual_seed(0)
    return captured(_Branches(), 2, 16)


@pytest.fixture(scope="module")
def context() -> Context:
    generator = torch.Generator().manual_seed(1)
    return Context(Evidence(Calibration([(torch.randn(32, 16, generator=generator),) for _ in range(4)])))


def _bits(item: AllocateBits, answer: Answer, program: Program) -> dict[str, int]:
    return {entry.split("=")[0]: int(entry.split("=w")[1][0]) for entry in item.entries_of(answer, program)}


def test_bits_go_where_they_count_and_the_budget_holds(program: Program, context: Context) -> None:
    item = AllocateBits(average=5.0, edges="", integer_only=True)
    answer = item.decide(program, context)
    bits = _bits(item, answer, program)
    assert tuple(bits) == NAMES
    elements = {name: 256 if name != "linear_3" else 80 for name in NAMES}
    assert sum(bits[name] * elements[name] for name in NAMES) <= 5.0 * sum(elements.values())
    assert bits["linear_1"] == min(bits.values()) < bits["linear_2"]
    assert answer.costs["size"] <= answer.budgets["size"]


def test_an_answer_replays_as_text_and_as_json(program: Program, context: Context) -> None:
    item = AllocateBits(average=6.0, rounds=0)
    answer = item.decide(program, context)
    searched = item.apply(program, context)
    entries = item.entries_of(answer, program)
    text = str(PlaceQuantizers(bits=entries))
    again = Pipeline.parse(text).passes[0].apply(program, context)
    replayed = AllocateBits(answer=Answer.from_json(answer.to_json())).apply(program, context)
    assert searched.hash == again.hash == replayed.hash
    assert searched.stage == "simulated"


def test_edges_keep_their_own_precision(program: Program, context: Context) -> None:
    item = AllocateBits(average=6.0, edges="w8", choices=("w4", "w2"), rounds=0)
    bits = _bits(item, item.decide(program, context), program)
    assert (bits["linear"], bits["linear_3"]) == (8, 8)
    assert max(bits["linear_1"], bits["linear_2"]) <= 4


def test_refining_is_no_worse_than_the_best_uniform(program: Program, context: Context) -> None:
    single = AllocateBits(average=4.0, edges="", choices=("w6", "w4", "w3", "w2"), rounds=0)
    refined = AllocateBits(average=4.0, edges="", choices=("w6", "w4", "w3", "w2"), rounds=3)
    x = next(iter(context.evidence.calibration.batches(program)))

    def quality(item: AllocateBits | PlaceQuantizers) -> float:
        return difference(program.run(*x), item.apply(program, context).run(*x)).sqnr

    answer = refined.decide(program, context)
    assert answer.costs["size"] <= answer.budgets["size"]
    assert quality(refined) >= min(quality(single), quality(PlaceQuantizers(weight_bits=4, edge_bits=4))) - 0.5


def test_inputs_of_16_bits_are_a_choice(program: Program, context: Context) -> None:
    item = AllocateBits(average=0.0, bops=1.5, choices=("w8a16", "w8", "w4"), edges="", measure="noise", loss="squares", rounds=0)
    answer = item.decide(program, context)
    assert answer.costs["bops"] <= answer.budgets["bops"]
    assert "w8a16" in answer.decisions.values()
    found = item.apply(program, context)
    assert found.stage == "simulated"


def test_costs_measured_elsewhere_are_budgets_too(program: Program, context: Context) -> None:
    def costs(layer: str, precision: Precision) -> dict[str, float]:
        return {"latency": 1e-3 * precision.weight}

    item = AllocateBits(average=0.0, edges="", budgets={"latency": 0.022}, costs=costs, rounds=0)
    answer = item.decide(program, context)
    assert answer.costs["latency"] <= 0.022
    assert sum(_bits(item, answer, program).values()) == 22


def test_a_budget_below_all_choices_is_named_with_the_nearest(program: Program, context: Context) -> None:
    with pytest.raises(InfeasibleError, match=r"size at most .* cannot be held; the nearest is size") as caught:
        AllocateBits(average=1.5, edges="").decide(program, context)
    assert caught.value.binding == ("size",)
    assert caught.value.nearest["size"] == pytest.approx((3 * 256 + 80) * 2 / 8)


def test_an_answer_of_another_program_is_refused(program: Program, context: Context) -> None:
    answer = AllocateBits(average=6.0, rounds=0).decide(program, context)
    torch.manual_seed(0)
    other = captured(Chain(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 5)), 2, 16)
    with pytest.raises(PassError, match="the answer and the program differ in 'linear_2'; decide on this program"):
        AllocateBits(answer=answer).apply(other, context)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"average": 0.0}, "no budget; give average, bops, or budgets and costs"),
        ({"average": 9.0}, "average=9; 0 for none, at most 8 bits"),
        ({"measure": "guess"}, "measure='guess'; one of distance, noise, hessian-trace"),
        ({"solver": "bisection"}, "solver='bisection'; one of milp, dynamic, greedy, brute"),
        ({"choices": ("w9",)}, "'w9' is no precision"),
        ({"choices": ()}, "no choices"),
        ({"rounds": -1}, "rounds=-1; 0 or more"),
    ],
)
def test_other_options_are_an_error(options: dict[str, object], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        AllocateBits(**options)  # type: ignore[arg-type]
