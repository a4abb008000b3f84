"""Groups of atoms: shares and targets that are met, plans and data that do not fit, scores that are no numbers."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
import torch
from encoder import encoder_program
from float_programs import ResidualNet, captured, measured
from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError, PassError, ProgramError
from fxpress_ir.slicing import Plan
from fxpress_passes import Context, PruneChannels
from fxpress_passes.evidence import Calibration, Evidence
from torch import Tensor


@pytest.fixture(scope="module")
def program() -> Program:
    return captured(ResidualNet(), 1, 3, 8, 8)


def test_random_is_by_the_seed(program: Program) -> None:
    plans = [PruneChannels(score="random").decide(program, Context(seed=seed)) for seed in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2]


@pytest.mark.parametrize(("ratio", "align", "stay"), [(0.0, 8, 24), (0.5, 8, 16), (0.5, 1, 12), (0.99, 8, 8), (0.99, 1, 1), (0.3, 5, 15)])
def test_what_stays_is_aligned_and_never_nothing(ratio: float, align: int, stay: int) -> None:
    half = PruneChannels(ratio=ratio, align=align).apply(encoder_program(), Context())
    assert half.tensors["layers.0.up.weight"].shape == (stay, 16)


def test_over_all_groups_the_lowest_leave_wherever_they_are() -> None:
    program = encoder_program()
    edit = program.edit()
    edit.tensors["layers.1.up.weight"] = program.tensors["layers.1.up.weight"] / 100
    edit.tensors["layers.1.up.bias"] = program.tensors["layers.1.up.bias"] / 100
    faint = edit.finish()
    found = PruneChannels(score="taylor", scope="global", align=4).apply(faint, measured(faint))
    assert found.tensors["layers.0.up.weight"].shape == (24, 16)
    assert found.tensors["layers.1.up.weight"].shape == (4, 16)  # one block stays


@pytest.mark.parametrize("what", ["macs", "parameters"])
def test_a_target_is_met_and_a_little_less_pruning_misses_it(program: Program, what: str) -> None:
    whole = getattr(program.cost(), what)
    shares = []
    for wanted in (0.8, 0.3):
        item = PruneChannels(**{what: wanted})
        plan = item.decide(program, Context())
        share = getattr(item.apply(program, Context()).cost(), what) / whole
        assert share <= wanted
        more = {name: tuple(range(min(8, len(kept) + 1))) for name, kept in plan.keep.items()}
        more |= {name: tuple(range(8)) for name in ("stem", "left") if name not in more}
        bigger = PruneChannels(plan=Plan.of(program, more)).apply(program, Context())
        assert getattr(bigger.cost(), what) / whole > wanted
        shares.append(share)
    assert all(more > less for more, less in pairwise(shares))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"ratio": 1.0}, "prune-channels: ratio=1 would leave nothing; from 0 to below 1, e.g. 0.5"),
        ({"ratio": -0.1}, "prune-channels: ratio=-0.1 is no share; "),
        ({"align": 0}, "prune-channels: align=0; 1 or more"),
        ({"scope": "row"}, "prune-channels: scope='row'; one of layer, global"),
        ({"score": "size"}, "prune-channels: unknown score 'size'; one of magnitude, activation"),
        ({"macs": 1.5}, "prune-channels: macs=1.5; give one of them, the share that stays, at most 1"),
        ({"macs": 0.5, "parameters": 0.5}, "prune-channels: macs=0.5, parameters=0.5; give one of them"),
        ({"macs": 0.5, "time": 0.5}, "prune-channels: macs=0.5, time=0.5; give one of them"),
    ],
)
def test_options_without_a_meaning_are_refused(options: dict[str, object], what: str) -> None:
    with pytest.raises(PassError, match=what):
        PruneChannels(**options)  # type: ignore[arg-type]


def test_a_target_out_of_reach_is_refused(program: Program) -> None:
    with pytest.raises(PassError, match=r"prune-channels: macs=0\.001 cannot be reached: 0\.\d+ stay at least; raise it"):
        PruneChannels(macs=0.001).apply(program, Context())


def test_a_plan_of_another_model_is_refused(program: Program) -> None:
    plan = dataclasses.replace(PruneChannels().decide(program, Context()), program_hash="0" * 64)
    with pytest.raises(ProgramError, match="plan of 000000000000: was made for another program; make it again"):
        PruneChannels(plan=plan).apply(program, Context())


@pytest.mark.parametrize(
    ("batches", "what"),
    [
        ((torch.zeros(2, 3, 9, 8),), "calibration batch 0, input 'x': "),
        ((torch.full((2, 3, 8, 8), torch.nan),), "calibration batch 0, input 'x': holds NaN or infinity"),
        (None, "this pass needs calibration data; give Pipeline.run calibration=batches"),
    ],
)
def test_data_that_do_not_fit_are_refused(program: Program, batches: tuple[Tensor, ...] | None, what: str) -> None:
    context = Context(None if batches is None else Evidence(Calibration(batches)))
    with pytest.raises(CalibrationError, match=what):
        PruneChannels(score="activation").apply(program, context)


def test_scores_that_are_no_numbers_are_refused(program: Program) -> None:
    edit = program.edit()
    edit.tensors["left.bias"] = torch.full_like(program.tensors["left.bias"], torch.nan)
    with pytest.raises(PassError, match="prune-channels: the magnitude score of 'left' is NaN or infinite; repair the model"):
        PruneChannels().apply(edit.finish(), Context())
