"""A side path takes up what a weight lost: the optimum of its rank in its metric, in floats and in integers."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path

import fxpress as fx
import numpy as np
import pytest
import torch
from float_programs import Chain, captured, measured, refusals, sample, untouched
from fxpress.zoo.char_lm import TextEntry
from fxpress_ir import Program, verify
from fxpress_ir.errors import CalibrationError, PassError, PipelineError
from fxpress_ir.ops import arguments
from fxpress_passes import Compensate, Context, CorrectBias, PlaceQuantizers, Sparsify, ToInteger
from fxpress_passes.contract import difference
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.evidence.second_moments import moment_key
from fxpress_passes.pipeline import Pipeline
from fxpress_passes.quantize.lost import lost_on_the_way
from torch import nn

RANKS = (1, 2, 4)


@lru_cache
def _net() -> Program:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 20))
    return captured(Chain(*layers), 1, 3, 6, 6)


def _data(count: int = 4) -> list[tuple[torch.Tensor, ...]]:
    return [sample(_net(), 32, seed) for seed in range(count)]


@lru_cache
def _simulated(bits: int, program: Program | None = None) -> Program:
    program = program or _net()
    return PlaceQuantizers(weight_bits=bits, edge_bits=bits).apply(program, measured(program))


def _weighted_errors(simulated: Program, metric: str, rank: int, context: Context | None = None) -> dict[str, tuple[float, float]]:
    """Of each layer, ||(W - W_c - B A) X||^2 / n in float64 with its float side path, and the energy that rank leaves out."""
    context, item = context or measured(_net()), Compensate(rank=rank, metric=metric)
    moments = context.evidence.second_moments(simulated)
    found = {}
    for lost in lost_on_the_way(simulated, context):
        path = item._path(simulated, lost, context)
        if path is not None:
            first, last = (piece.weight.flatten(1) for piece in path.pieces)
            moment = torch.from_numpy(moments[moment_key(lost.node)].moment)
            error = lost.error.flatten(1)
            gap = error - last @ first
            energies = torch.linalg.eigvalsh(error @ moment @ error.T).flip(0)
            found[lost.node.name] = (float((gap @ moment * gap).sum()), float(energies[rank:].sum()))
    return found


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_by_activations_the_error_is_the_optimum_and_never_above_the_plain_one(bits: int) -> None:
    for rank in RANKS:
        weighted, plain = (_weighted_errors(_simulated(bits), metric, rank) for metric in ("activations", "plain"))
        assert weighted.keys() == plain.keys()
        assert weighted
        for name, (error, optimum) in weighted.items():
            assert error == pytest.approx(optimum, rel=1e-9)
            assert error <= plain[name][0]


@pytest.mark.parametrize("score", ["magnitude", "sparsegpt"])
@pytest.mark.parametrize("bits", [None, 4, 2])
def test_by_activations_the_error_of_zeros_and_bits_together_is_the_optimum_too(bits: int | None, score: str) -> None:
    sparse = Sparsify(score=score, pattern="2:4").apply(_net(), measured(_net()))
    program, context = sparse if bits is None else _simulated(bits, sparse), measured(_net())
    context.losses = ((_net(), sparse),)
    for rank in RANKS:
        weighted, plain = (_weighted_errors(program, metric, rank, context) for metric in ("activations", "plain"))
        assert "conv2d_1" in weighted.keys() & plain.keys()
        for name, (error, optimum) in weighted.items():
            assert error == pytest.approx(optimum, rel=1e-9)
            assert error <= plain[name][0]


def test_more_ranks_leave_less() -> None:
    errors = [_weighted_errors(_simulated(4), "activations", rank) for rank in RANKS]
    for less, more in pairwise(errors):
        assert all(more[name][0] < less[name][0] for name in more)


@pytest.mark.parametrize("metric", ["plain", "activations"])
@pytest.mark.parametrize("bits", [2, 4])
def test_it_brings_few_bits_nearer_and_integers_follow(bits: int, metric: str) -> None:
    program, simulated = _net(), _simulated(bits)
    with untouched(simulated):
        after = Compensate(rank=4, metric=metric).apply(simulated, measured(program))
    verify(after)
    inputs = sample(program, 256, seed=9)
    exact = program.run(*inputs)
    assert difference(exact, after.run(*inputs)).sqnr > difference(exact, simulated.run(*inputs)).sqnr + 2
    integer = ToInteger(integer_only=True).apply(after, Context())
    assert verify(integer)
    assert difference(after.run(*inputs), integer.run(*inputs)).sqnr > 35


def test_an_error_of_the_paths_rank_is_taken_up_whole() -> None:
    torch.manual_seed(0)
    program = captured(Chain(nn.Linear(32, 24)), 1, 32)
    edit = program.edit()
    edit.tensors["0.weight"] = program.tensors["0.weight"].detach() + torch.randn(24, 3) @ torch.randn(3, 32)
    changed = edit.finish()
    inputs = sample(program, 64, seed=9)
    for metric in ("plain", "activations"):
        after = Compensate(rank=3, metric=metric, reference=program).apply(changed, measured(program))
        assert difference(program.run(*inputs), after.run(*inputs)).relative < 1e-5


def test_after_correct_bias_only_distances_from_the_mean_count() -> None:
    torch.manual_seed(0)
    program = captured(Chain(nn.ReLU(), nn.Linear(32, 24)), 1, 32)
    batches = [(sample(program, 64, seed)[0] + 2,) for seed in range(4)]
    plain = Pipeline([PlaceQuantizers(weight_bits=2, edge_bits=2), CorrectBias()]).run(program, calibration=batches).program
    after = Pipeline([Compensate(rank=6)]).run(plain, calibration=batches).program
    inputs = (torch.cat([batch[0] for batch in batches]),)
    gaps = [(program.run(*inputs)[0] - found.run(*inputs)[0]).double() for found in (plain, after)]
    assert gaps[1].square().mean() < 0.8 * gaps[0].square().mean()
    assert gaps[1].mean(0).abs().max() < 0.05 * gaps[0].abs().max()
    assert ToInteger(integer_only=True).apply(after, Context()).stage == "integer"


def _pruned(program: Program) -> Program:
    edit = program.edit()
    for node in edit.graph.nodes:
        if str(node.target) in ("aten.linear.default", "aten.conv2d.default"):
            name = str(arguments(node)["weight"].target)
            weight = edit.tensors[name].detach()
            edit.tensors[name] = torch.where(weight.abs() > weight.abs().median(), weight, 0.0)
    return edit.finish()


def test_a_pruned_float_program_is_compensated_against_the_one_before() -> None:
    program, pruned = _net(), _pruned(_net())
    inputs = sample(program, 256, seed=9)
    found = []
    for rank in RANKS:
        with untouched(pruned):
            after = Compensate(rank=rank, reference=program).apply(pruned, measured(program))
        assert after.stage == "float"
        found.append(difference(program.run(*inputs), after.run(*inputs)).sqnr)
    assert difference(program.run(*inputs), pruned.run(*inputs)).sqnr < found[0] < found[1] < found[2]
    assert Compensate(reference=pruned).apply(pruned, measured(program)) is pruned


@pytest.mark.parametrize("middle", ["", ", place-quantizers{weight_bits=4, edge_bits=4}"])
def test_zeros_are_made_up_for_in_the_same_pipeline(middle: str) -> None:
    inputs, found = sample(_net(), 256, seed=9), []
    for end in ("", *(f", compensate{{rank={rank}}}" for rank in RANKS)):
        result = Pipeline.parse(f'sparsify{{score=magnitude, pattern="2:4", skip_ends=false}}{middle}{end}').run(
            _net(), calibration=_data()
        )
        assert all(step.fired for step in result.report.steps if not step.inserted)
        assert int((result.program.tensors["2.weight"] == 0).sum()) >= 16 * 16 * 9 // 2
        found.append(difference(_net().run(*inputs), result.program.run(*inputs)).sqnr)
    assert found[0] < found[1] < found[2] < found[3]


def test_after_correct_bias_the_mean_error_of_zeros_is_taken_up_too() -> None:
    torch.manual_seed(0)
    program = captured(Chain(nn.ReLU(), nn.Linear(32, 24)), 1, 32)
    batches = [(sample(program, 64, seed)[0] + 2,) for seed in range(4)]
    passes = [Sparsify(score="magnitude", skip_ends=False), PlaceQuantizers(weight_bits=4, edge_bits=4), CorrectBias()]
    plain, after = (Pipeline(items).run(program, calibration=batches).program for items in (passes, [*passes, Compensate(rank=6)]))
    inputs = (torch.cat([batch[0] for batch in batches]),)
    gaps = [(program.run(*inputs)[0] - found.run(*inputs)[0]).double() for found in (plain, after)]
    assert gaps[0].mean(0).abs().max() > 0.3 * gaps[0].abs().max()
    assert gaps[1].mean(0).abs().max() < 0.05 * gaps[0].abs().max()
    assert gaps[1].square().mean() < 0.2 * gaps[0].square().mean()


def test_where_no_pass_lost_a_weight_there_is_nothing_to_do() -> None:
    step = Pipeline([Compensate()]).run(_net(), calibration=_data()).report.steps[0]
    assert not step.fired
    assert not step.refusals


def test_a_reference_of_other_nodes_is_an_error() -> None:
    other = captured(Chain(nn.Linear(12, 10)), 1, 12)
    with pytest.raises(PassError, match="other nodes"):
        Compensate(reference=other).apply(_pruned(_net()), measured(_net()))


def test_what_it_leaves_alone_and_why() -> None:
    program = captured(Chain(nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, 4), nn.Linear(4, 3)), 1, 4, 6, 6)
    context = measured(program)
    simulated = _simulated(8, program)
    assert Compensate(rank=2, below=30).apply(simulated, context) is simulated
    assert refusals(context)[0] == "conv2d: its weight is in 2 groups, which share no directions"
    assert "dB below its results" in refusals(context)[1]
    assert refusals(context)[2] == "linear_1: a side path of rank 2 would take 14 parameters beside 12; lower the rank"


def test_a_second_time_there_is_nothing_to_do() -> None:
    once = Compensate().apply(_simulated(4), measured(_net()))
    assert Compensate().apply(once, measured(_net())) is once


def test_it_needs_data_and_quantisers_before_it() -> None:
    with pytest.raises(CalibrationError):
        Compensate().apply(_simulated(4), Context())
    with pytest.raises(PipelineError, match="place-quantizers comes after compensate"):
        Pipeline([Compensate(), PlaceQuantizers()])


@pytest.mark.parametrize("options", [{"rank": 0}, {"metric": "fisher"}])
def test_options_without_a_meaning_are_an_error(options: dict[str, object]) -> None:
    with pytest.raises(PassError, match=next(iter(options))):
        Compensate(**options)  # type: ignore[arg-type]


@cache
def _integers() -> Program:
    text = "place-quantizers{weight_bits=2, edge_bits=4, integer_only=true}, compensate{rank=4}, to-integer{integer_only=true}"
    result = fx.Pipeline.parse(text).run(_net(), calibration=[sample(_net(), 8, seed) for seed in range(4)])
    assert all(step.fired for step in result.report.steps[-2:])
    return result.program


@pytest.mark.parametrize("target", ["reference", "onnx:int", "onnx:qlinear", "tvm:x86-64"])
def test_side_paths_are_the_same_integers_everywhere(target: str, tmp_path: Path) -> None:
    program = _integers()
    assert program.stage == "integer"
    (x,) = sample(_net(), 3, 9)
    artifact = fx.lower(program, target, out=tmp_path / "model")
    assert np.array_equal(artifact.run(2 * x.numpy())[0], program.run(2 * x)[0].numpy())


def test_held_out_perplexity_of_a_language_model_falls() -> None:
    entry = fx.zoo.load("char-lm")
    assert isinstance(entry, TextEntry)
    entry = replace(entry, held_out=(entry.held_out[0][:2], entry.held_out[1][:2]))
    program, data = fx.capture(entry.model, (entry.held_out[0],)), [(entry.calibration[0][0][:2],)]
    found = fx.Pipeline.parse("place-quantizers{weight_bits=2, integer_only=true}").run(program, calibration=data).program
    compensated = Compensate(rank=16, below=35).apply(found, Context(Evidence(Calibration(data))))
    perplexities = [entry.perplexity(one.run) for one in (found, compensated, program)]
    assert perplexities[0] > 1.1 * perplexities[1] > 1.1 * perplexities[2]
