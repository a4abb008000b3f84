"""conv and MLP on fewer channels: the published size of ResNet-18, plans that replay, before and after folding."""

from __future__ import annotations

import pytest
import torch
import transformers as t
from coupled import captured as drawn_program
from encoder import encoder_program
from float_programs import ResidualNet, captured, measured, sample
from fxpress_ir import Program
from fxpress_ir.slicing import Plan
from fxpress_passes import Context, FoldBatchNorm, PruneChannels, ReestimateBatchNorm
from fxpress_passes.pipeline import Pipeline
from fxpress_passes.prune.importance import IMPORTANCES


@pytest.fixture(scope="module")
def program() -> Program:
    return captured(ResidualNet(), 1, 3, 8, 8)


def test_resnet_18_at_half_is_the_published_size() -> None:
    """Torch-Pruning's count at ratio 0.5, the stem and the streams included; batch norms' running statistics are buffers."""
    config = t.ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", num_labels=1000)
    whole = drawn_program(t.ResNetForImageClassification(config).eval(), torch.zeros(2, 3, 224, 224))
    half = PruneChannels(ratio=0.5, align=8).apply(whole, Context())
    counts = [sum(v.numel() for name, v in one.tensors.items() if "running" not in name) for one in (whole, half)]
    assert counts == [11_689_512, 3_055_880]
    assert (whole.cost().macs, half.cost().macs) == (1_814_073_344, 483_149_824)


def test_before_and_after(program: Program) -> None:
    half = PruneChannels(ratio=0.5).apply(program, Context())
    before, after = ({name: list(v.shape) for name, v in one.tensors.items() if v.dim() > 1} for one in (program, half))
    assert before == {"stem.weight": [8, 3, 3, 3], "left.weight": [8, 8, 3, 3], "right.weight": [8, 8, 3, 3], "head": [5, 8]}
    assert after == {"stem.weight": [4, 3, 3, 3], "left.weight": [4, 4, 3, 3], "right.weight": [4, 4, 3, 3], "head": [5, 4]}


@pytest.mark.parametrize("score", IMPORTANCES)
def test_what_a_score_likes_least_leaves(score: str) -> None:
    """Hidden units that give nothing, whichever way one looks."""
    program = encoder_program()
    edit = program.edit()
    for name in ("layers.0.up.weight", "layers.0.up.bias"):
        edit.tensors[name] = program.tensors[name].index_fill(0, torch.tensor([1, 5]), 0.0)
    silent = edit.finish()
    plan = PruneChannels(ratio=2 / 24, score=score).decide(silent, measured(silent))
    assert plan.program_hash == silent.hash
    assert plan.keep.keys() == {"layers.0.up", "layers.1.up"}
    assert all(len(kept) == 22 for kept in plan.keep.values())
    if score == "order":
        assert plan.keep["layers.0.up"] == tuple(range(22))
    elif score != "random":
        assert not {1, 5} & set(plan.keep["layers.0.up"])


def test_a_group_of_one_block_stays_whole_and_the_report_says_so(program: Program) -> None:
    context = Context()
    assert PruneChannels(align=8).apply(program, context) is program
    assert str(context.refusals[0]) == "linear: output 0 carries it; it stays whole"
    assert str(context.refusals[1]) == "stem: its 8 atoms are no more than one block of align=8; a smaller align"


def test_features_that_norms_count_and_heads_are_other_passes_business() -> None:
    context = Context()
    half = PruneChannels().apply(encoder_program(), context)
    assert half.tensors["layers.0.query.weight"].shape == (16, 16)
    assert str(context.refusals[0]) == "stem: its entries are counted by layer_norm at layer_norm; prune-width takes it"


def test_a_plan_is_printed_stored_and_replayed(program: Program) -> None:
    plan = PruneChannels().decide(program, Context())
    assert str(plan) == "stem: 4 stay\nleft: 4 stay"
    replayed = PruneChannels(plan=Plan.from_json(plan.to_json())).apply(program, Context())
    assert replayed.hash == PruneChannels().apply(program, Context()).hash


def test_statistics_before_folding_or_folded_already(program: Program) -> None:
    data = [sample(program, 8, seed) for seed in range(4)]
    for passes in ([PruneChannels(), ReestimateBatchNorm(), FoldBatchNorm()], [FoldBatchNorm(), PruneChannels()]):
        result = Pipeline(passes).run(program, calibration=data)
        assert all(step.fired for step in result.report.steps)
        assert "batch_norm" not in str(result.program)
        assert result.program.cost().macs == PruneChannels().apply(program, Context()).cost().macs


def test_options_print_and_parse() -> None:
    text = 'prune-channels{ratio=0.25, align=8, scope="global", score="taylor"}'
    assert str(Pipeline.parse(text)) == text
