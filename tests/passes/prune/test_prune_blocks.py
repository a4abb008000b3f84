"""Layers leave whole; their plan replays; one stays."""

from __future__ import annotations

import pytest
import torch
from encoder import Encoder
from float_programs import captured, measured, operators, sample
from fxpress_ir import Program
from fxpress_ir.errors import PassError
from fxpress_passes import Context, PruneBlocks
from fxpress_passes.prune.prune_blocks import BlockPlan
from torch import nn


@pytest.fixture(scope="module")
def program() -> Program:
    """Three layers, of which the second hardly does anything."""
    model = Encoder(depth=3)
    for layer in (model.layers[1].out, model.layers[1].down):
        nn.init.normal_(layer.weight, 0, 1e-3)
        nn.init.zeros_(layer.bias)
    return captured(model, 2, 6, 4)


@pytest.mark.parametrize("score", ["influence", "loss"])
def test_the_layer_that_does_least_leaves(program: Program, score: str) -> None:
    found = PruneBlocks(ratio=0.34, score=score).apply(program, measured(program))
    assert {name.split(".")[1] for name in found.tensors if name.startswith("layers")} == {"0", "2"}
    x = sample(program, 3)
    torch.testing.assert_close(found.run(*x), program.run(*x), rtol=0, atol=1e-2)


def test_what_is_left_is_the_smaller_network(program: Program) -> None:
    smaller = captured(Encoder(depth=1), 2, 6, 4)
    found = PruneBlocks(ratio=0.9, score="random").apply(program, Context())
    assert operators(found) == operators(smaller)
    assert found.cost() == smaller.cost()


def test_random_is_by_the_seed(program: Program) -> None:
    plans = [PruneBlocks(score="random").decide(program, Context(seed=seed)).remove for seed in range(8)]
    assert len(set(plans)) == 3
    assert PruneBlocks(score="random").decide(program, Context(seed=3)).remove == plans[3]


def test_a_plan_is_printed_stored_and_replayed(program: Program) -> None:
    plan = PruneBlocks().decide(program, measured(program))
    assert BlockPlan.from_json(plan.to_json()) == plan
    assert str(plan).endswith(" leaves")
    assert PruneBlocks(plan=plan).apply(program, Context()).hash == PruneBlocks().apply(program, measured(program)).hash


def test_without_blocks_it_says_so() -> None:
    program, context = captured(nn.Linear(3, 3), 2, 3), Context()
    assert PruneBlocks().apply(program, context) is program
    assert [str(refused) for refused in context.refusals] == ["program: no residual block with weights; prune-channels"]


def test_it_stays_whole_where_it_would_not_be_faster(program: Program) -> None:
    context = measured(program)
    assert PruneBlocks(latency=lambda _: 1.0).apply(program, context) is program
    assert str(context.refusals[-1]).startswith("program: made smaller it takes 1.000 of its parent's time; it stays as it was")


def test_a_plan_of_another_program_or_of_no_block_is_refused(program: Program) -> None:
    with pytest.raises(PassError, match=r"plan of abc: was made for another program than .*; make it again"):
        PruneBlocks(plan=BlockPlan("abc", ())).apply(program, Context())
    with pytest.raises(PassError, match="the plan: a ==> b is no residual block; decide"):
        PruneBlocks(plan=BlockPlan(program.hash, (("a", "b"),))).apply(program, Context())
    with pytest.raises(PassError, match="the text: is not a plan of blocks"):
        BlockPlan.from_json("[]")


@pytest.mark.parametrize(
    ("options", "what"), [({"ratio": 1.0}, "ratio=1 leaves no block"), ({"score": "x"}, "unknown score 'x'; one of infl")]
)
def test_options_without_a_meaning_are_refused(options: dict[str, object], what: str) -> None:
    with pytest.raises(PassError, match=f"prune-blocks: {what}"):
        PruneBlocks(**options)  # type: ignore[arg-type]


def test_scores_that_are_no_numbers_are_refused(program: Program) -> None:
    edit = program.edit()
    edit.tensors["stem.weight"] = torch.full_like(program.tensors["stem.weight"], torch.nan)
    broken = edit.finish()
    with pytest.raises(PassError, match=r"prune-blocks: the influence score of .* is NaN; repair the model"):
        PruneBlocks().apply(broken, measured(broken))


@pytest.mark.parametrize(("budget", "left"), [({"macs": 0.7}, 2), ({"parameters": 0.5}, 1), ({"macs": 1.0}, 3)])
def test_a_budget_takes_as_few_blocks_as_it_needs(program: Program, budget: dict[str, float], left: int) -> None:
    found = PruneBlocks(**budget).apply(program, measured(program))  # type: ignore[arg-type]
    assert len({name.split(".")[1] for name in found.tensors if name.startswith("layers")}) == left
    (name, share), *_ = budget.items()
    assert getattr(found.cost(), name) <= share * getattr(program.cost(), name)


def test_a_budget_of_time_is_measured(program: Program) -> None:
    def latency(one: Program) -> float:
        return 1e-3 * one.cost().macs / program.cost().macs

    found = PruneBlocks(time=0.7, latency=latency).apply(program, measured(program))
    assert found.hash == PruneBlocks(macs=0.7).apply(program, measured(program)).hash


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"macs": 0.01}, "macs=0.01 cannot be reached: .* stay at least"),
        ({"time": 0.5}, "time=0.5 asks for a measurement; give latency="),
        ({"macs": 0.5, "parameters": 0.5}, "macs=0.5, parameters=0.5; give one of them"),
    ],
)
def test_a_budget_that_cannot_be_held_is_refused(program: Program, budget: dict[str, float], message: str) -> None:
    with pytest.raises(PassError, match=message):
        PruneBlocks(**budget).apply(program, measured(program))  # type: ignore[arg-type]
