"""A sparse program comes nearer to its teacher with exactly the same zeros, whatever part of it is trained."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from float_programs import Chain, captured, measured, sample, untouched
from fxpress_ir import Program, verify
from fxpress_ir.errors import CalibrationError, PassError
from fxpress_passes import Context, Recover, ReestimateBatchNorm, Sparsify
from fxpress_passes.contract import difference
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.pipeline import Pipeline
from torch import Tensor, nn


@cache
def _teacher() -> Program:
    torch.manual_seed(0)
    convolutions = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
    program = captured(Chain(*convolutions, nn.ReLU(), nn.Flatten(), nn.Linear(128, 24), nn.ReLU(), nn.Linear(24, 5)), 2, 3, 4, 4)
    return ReestimateBatchNorm().apply(program, measured(program, batches=6, batch=64))


@cache
def _sparse() -> Program:
    return Sparsify(score="magnitude", sparsity=0.7).apply(_teacher(), Context())


def _context(program: Program) -> Context:
    context = measured(program, batches=6, batch=32)
    context.original = _teacher()
    return context


def _sqnr(program: Program) -> float:
    x = sample(program, 64, seed=99)
    return difference(_teacher().run(*x), program.run(*x)).sqnr


def _zeros(program: Program) -> list[Tensor]:
    return [program.tensors[name] == 0 for name in ("0.weight", "3.weight", "7.weight", "9.weight")]


PARTS = [("all",), ("biases", "norms"), ("biases", "norms", "head"), ("mask-lora",), ("biases", "mask-lora", "head")]


@pytest.mark.parametrize("parameters", PARTS, ids="+".join)
def test_it_comes_nearer_and_masks_stay_exactly(parameters: tuple[str, ...]) -> None:
    program, item = _sparse(), Recover(steps=60, rate=5e-3, parameters=parameters, loss="mse")
    with untouched(program), untouched(_teacher()):
        after = item.apply(program, _context(program))
    verify(after)
    assert all(torch.equal(old, new) for old, new in zip(_zeros(program), _zeros(after), strict=True))
    assert _sqnr(after) > _sqnr(program)
    moved = {name for name in program.tensors if name in after.tensors and after.tensors[name] is not program.tensors[name]}
    assert ("3.weight" in moved) == bool({"all", "mask-lora"} & set(parameters))
    assert ("9.weight" in moved) == bool({"all", "mask-lora", "head"} & set(parameters))


def test_the_teacher_is_what_the_pipeline_began_with() -> None:
    data = [sample(_teacher(), 32, seed) for seed in range(6)]
    told: list[tuple[str, int, int]] = []
    items = [Sparsify(score="magnitude", sparsity=0.7), Recover(steps=40, loss="mse")]
    result = Pipeline(items).run(_teacher(), calibration=data, progress=lambda *step: told.append(step))
    assert _sqnr(result.program) > _sqnr(_sparse())
    assert ("recovering", 40, 40) in told


def test_features_and_a_schedule_of_zeros() -> None:
    item = Recover(steps=60, features=("relu_1",), sparsity=0.5, prune_every=5)
    after = item.apply(_teacher(), _context(_teacher()))
    assert [float(zeros.double().mean()) for zeros in _zeros(after)] == [0, 0.5, 0.5, 0]


def test_from_scratch_the_zeros_stay_and_the_quality_goes() -> None:
    program = _sparse()
    items = [Recover(steps=30, loss="mse", statistics="batch", baseline=name) for name in ("", "scratch")]
    ours, scratch = (item.apply(program, _context(program)) for item in items)
    assert all(torch.equal(old, new) for old, new in zip(_zeros(program), _zeros(scratch), strict=True))
    assert _sqnr(scratch) < _sqnr(ours)
    with pytest.raises(PassError, match=r'have statistics of the old one; statistics="batch"$'):
        Recover(baseline="scratch").apply(program, _context(program))


def test_statistics_are_kept_or_measured_anew() -> None:
    program = _sparse()
    kept, batch = (Recover(steps=2, statistics=how).apply(program, _context(program)) for how in ("keep", "batch"))
    assert kept.tensors.keys() == program.tensors.keys()
    assert len(batch.tensors.keys() - program.tensors.keys()) == 4


def test_a_simulated_program_trains_through_its_quantisers() -> None:
    data = [sample(_teacher(), 32, seed) for seed in range(6)]
    text = "fold-batch-norm, place-quantizers{weight_bits=2, integer_only=true}"
    before = Pipeline.parse(text).run(_teacher(), calibration=data).program
    after = Recover(steps=60, loss="mse").apply(before, _context(before))
    assert after.stage == "simulated"
    assert _sqnr(after) > _sqnr(before)
    integer = Pipeline.parse("to-integer").run(after).program
    assert integer.stage == "integer"
    x = sample(_teacher(), 16, seed=99)
    assert difference(after.run(*x), integer.run(*x)).sqnr > 20


def test_seed_and_options_decide_every_bit_and_a_state_goes_on(tmp_path: Path) -> None:
    program = _sparse()
    item = Recover(steps=8, parameters=("mask-lora",), rank=2, state=str(tmp_path))
    one = item.apply(program, _context(program))
    told: list[int] = []
    context = _context(program)
    context.progress = lambda label, done, total: told.append(done)
    assert item.apply(program, context).hash == one.hash
    assert told == []
    plain = Recover(steps=8, parameters=("mask-lora",), rank=2)
    context = _context(program)
    assert plain.apply(program, context).hash == one.hash
    context.seed = 1
    assert plain.apply(program, context).hash != one.hash


def test_another_batch_at_any_place_is_another_run(tmp_path: Path) -> None:
    program, data = _sparse(), [sample(_teacher(), 4, seed) for seed in range(4)]

    def files(batches: list[tuple[Tensor, ...]]) -> int:
        item = Recover(steps=1, parameters=("biases",), teacher=_teacher(), state=str(tmp_path))
        item.apply(program, Context(Evidence(Calibration(batches))))
        return len(list(tmp_path.iterdir()))

    assert files(data) == 1
    assert files([tuple(part.clone() for part in batch) for batch in data]) == 1
    assert files([*data[:3], sample(_teacher(), 4, 9)]) == 2
    assert files(data[:3]) == 3
    assert files([data[0], data[2], data[1], data[3]]) == 4


def test_where_nothing_was_lost_nothing_is_done() -> None:
    assert Recover().apply(_teacher(), _context(_teacher())) is _teacher()


def test_without_data_or_teacher_it_says_so() -> None:
    with pytest.raises(PassError, match=r"^recover: there is no teacher; run it in a pipeline"):
        Recover().apply(_sparse(), Context())
    with pytest.raises(CalibrationError):
        Recover(teacher=_teacher()).apply(_sparse(), Context())
    other = captured(nn.Linear(4, 5), 2, 4)
    with pytest.raises(PassError, match="the teacher takes or gives other values"):
        Recover(teacher=other).apply(_sparse(), _context(_sparse()))
    with pytest.raises(PassError, match="the program has no norms; train others"):
        Recover(teacher=other, parameters=("norms",)).apply(captured(nn.Linear(4, 5), 2, 4), measured(other))


@pytest.mark.parametrize(
    "given",
    [
        {"loss": "l1"},
        {"parameters": ("all", "head")},
        {"parameters": ()},
        {"parameters": ("lora",)},
        {"sparsity": 1.0},
        {"sparsity": 0.5, "parameters": ("head",)},
        {"baseline": "scratch-C"},
        {"baseline": "scratch", "parameters": ("head",)},
        {"statistics": "none"},
        {"steps": 0},
        {"rate": 0.0},
        {"rank": 0},
    ],
    ids=str,
)
def test_an_option_without_meaning_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(PassError, match=r"^recover: "):
        Recover(**given)  # type: ignore[arg-type]
