"""What cannot be pruned, made sparse or factorised: each reason is one line, whichever pass says it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from encoder import encoder_program
from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError, FxpressError, PassError
from fxpress_ir.slicing import Plan
from fxpress_passes import Context, Factorize, Pass, PruneBlocks, PruneChannels, PruneHeads, PruneWidth, Sparsify
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.factorize.plan import RankPlan
from fxpress_passes.pipeline import Pipeline
from fxpress_passes.prune.plan import SparsityPlan, cut
from fxpress_passes.prune.prune_blocks import BlockPlan
from torch import Tensor

MEASURING: list[Pass] = [
    *(PruneChannels(score="taylor"), PruneHeads(score="activation"), PruneWidth(score="fisher"), PruneBlocks(), PruneBlocks(score="loss")),
    *(Sparsify(), Sparsify(score="fisher"), Factorize(), Factorize(metric="fisher")),
]
BATCH = (torch.randn(4, 6, 4, generator=torch.Generator().manual_seed(0)),)


def _context(*batches: tuple[Tensor, ...]) -> Context:
    return Context(Evidence(Calibration(batches)))


def _with(name: str, value: float) -> Program:
    program = encoder_program()
    edit = program.edit()
    edit.tensors[name] = torch.full_like(program.tensors[name], value)
    return edit.finish()


def _one_line(error: FxpressError) -> bool:
    return "\n" not in str(error) and "; " in str(error)


@pytest.mark.parametrize("item", MEASURING, ids=str)
def test_data_that_do_not_fit_or_are_missing(item: Pass) -> None:
    program = encoder_program()
    wrong, empty, none = _context((torch.zeros(4, 6, 5),)), _context(), Context()
    for context, what in (
        (wrong, "calibration batch 0, input 'x': dimension 2 is 5, expected 4; pass a tensor"),
        (empty, "calibration holds no batch; pass at least one"),
        (none, "this pass needs calibration data; give Pipeline.run calibration=batches"),
    ):
        with pytest.raises(CalibrationError, match=what) as caught:
            item.apply(program, context)
        assert _one_line(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("item", [PruneChannels(), PruneHeads(), PruneWidth()], ids=str)
def test_a_score_that_is_no_number(item: Pass, value: float) -> None:
    name = {"prune-channels": "layers.0.up", "prune-heads": "layers.0.query", "prune-width": "stem"}[item.name]
    with pytest.raises(PassError, match=f"{item.name}: the magnitude score of '{name}' is NaN or infinite; repair the model") as caught:
        item.apply(_with(f"{name}.weight", value), Context())
    assert _one_line(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "item", [Factorize(), Factorize(ratio=0.2), Factorize(metric="plain"), Sparsify(score="magnitude"), Sparsify()], ids=str
)
def test_a_weight_that_is_no_number_is_left_alone_by_name(item: Pass, value: float) -> None:
    context = _context(BATCH)
    item.apply(_with("layers.0.up.weight", value), context)
    assert "linear_5: its weight layers.0.up.weight holds NaN or infinity; repair the model" in map(str, context.refusals)


def test_what_reads_nan_is_not_measured() -> None:
    context = _context(BATCH)
    assert not Factorize().decide(_with("stem.weight", float("nan")), context).splits
    assert "linear_1: its input is NaN or infinite on calibration data; check the model and the data" in map(str, context.refusals)


@pytest.mark.parametrize("item", [PruneChannels(), PruneHeads(), PruneWidth(), PruneBlocks(score="random")], ids=str)
def test_a_plan_of_another_model(item: PruneChannels | PruneHeads | PruneWidth | PruneBlocks) -> None:
    plan: Plan | BlockPlan = item.decide(encoder_program(), Context())
    other = _with("head.bias", 1.0)
    with pytest.raises(FxpressError, match=f"^plan of {plan.program_hash[:12]}: was made for another program.*; make it again$") as caught:
        replace(item, plan=plan).apply(other, Context())
    assert _one_line(caught.value)


def test_a_plan_of_ranks_or_of_zeros_of_another_model() -> None:
    other = _with("head.bias", 1.0)
    ranks = Factorize(metric="plain", ratio=0.2).decide(encoder_program(), Context())
    with pytest.raises(PassError, match=r"^factorize: the plan is for program \w{12}, this one is \w{12}; decide on this program$"):
        Factorize(metric="plain").cut(other, RankPlan.from_json(ranks.to_json()), Context())
    zeros: SparsityPlan = Sparsify(score="magnitude").decide(encoder_program(), Context())
    with pytest.raises(PassError, match=r"^sparsify: the plan is for program \w{12}, this one is \w{12}; decide on this program$"):
        cut(other, zeros)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("prune-channels{ratio=1.0}", "prune-channels: ratio=1 would leave nothing; from 0 to below 1"),
        ("prune-heads{ratio=1.0}", "prune-heads: ratio=1 would leave nothing; from 0 to below 1"),
        ("prune-width{ratio=2.0}", "prune-width: ratio=2 would leave nothing; from 0 to below 1"),
        ("prune-blocks{ratio=1.0}", "prune-blocks: ratio=1 leaves no block; from 0 to below 1"),
        ("sparsify{sparsity=1.0}", "sparsify: sparsity=1 is no share of zeros; between 0 and 1"),
        ("factorize{ratio=1.0}", "factorize: ratio=1; 0 for none, below 1"),
        ("prune-heads{macs=0.01}", r"prune-heads: macs=0\.01 cannot be reached: 0\.\d+ stay at least; raise it, or prune more kinds"),
        ("prune-width{parameters=0.01}", r"prune-width: parameters=0\.01 cannot be reached: 0\.\d+ stay at least"),
        ("prune-channels{time=0.5}", r"prune-channels: time=0\.5 asks for a measurement; give latency="),
    ],
)
def test_what_would_leave_nothing_or_cannot_be_reached(text: str, what: str) -> None:
    with pytest.raises(PassError, match=f"^{what}") as caught:
        Pipeline.parse(text).run(encoder_program())
    assert _one_line(caught.value)
