"""A simulated program comes out whose layers give more of what the float ones give, with integers that every backend computes."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import fxpress as fx
import numpy as np
import pytest
import torch
from float_programs import Chain, applied, captured, sample, sequence_program, untouched
from fxpress.zoo.digits_cnn import digits
from fxpress_ir import Program, verify
from fxpress_ir.errors import CalibrationError, PassError, PipelineError
from fxpress_passes import Compensate, Context, FoldBatchNorm, PlaceQuantizers, Reconstruct, Sparsify, ToInteger
from fxpress_passes.contract import difference
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.pipeline import Pipeline
from fxpress_passes.reconstruct.layers import layers_of
from fxpress_passes.reconstruct.methods import METHODS
from fxpress_passes.reconstruct.walk import layer_errors
from low_bits import codes, data, every_kind, simulated
from quantized import LayerTwice, Stages, check_exact
from torch import nn

LEARNING = [name for name, method in METHODS.items() if method.moves and method.falls]


@lru_cache
def _learnt(method: str, bits: int = 3) -> Program:
    program = simulated(every_kind(), bits)
    with untouched(program):
        result = Reconstruct(method=method, steps=12).apply(program, data(program))
    verify(result)
    return result


@pytest.mark.parametrize(
    ("method", "bits"), [("adaquant", 2), ("adaround", 4), ("flexround", 3), ("gptq", 2), ("statistics", 2), ("bias", 2)]
)
def test_layers_come_nearer_and_the_integers_are_exact(method: str, bits: int) -> None:
    before, after = simulated(every_kind(), bits), _learnt(method, bits)
    assert after.inputs == before.inputs
    for integers in codes(after).values():
        assert float(integers.abs().max()) <= (1 << (bits - 1)) - 1
    integer = ToInteger().apply(after, Context())
    verify(integer)
    check_exact(Stages(every_kind(), after, integer))
    held = [sample(before, 64, 9)]
    names = [layer.name for layer in layers_of(before, Context())]
    old, new = (layer_errors(program, before, held, names) for program in (before, after))
    assert sum(new.values()) < sum(old.values())


@pytest.mark.parametrize("target", ["reference", "onnx:int", "onnx:qlinear", "tvm:x86-64"])
def test_every_backend_gives_its_integers(target: str, tmp_path: Path) -> None:
    layers = (nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))
    program = simulated(captured(Chain(*layers), 1, 4, 4, 4), 3)
    integer = ToInteger().apply(Reconstruct(steps=10).apply(program, data(program)), Context())
    (x,) = sample(integer, 3, 7)
    artifact = fx.lower(integer, target, out=tmp_path / "artifact")
    (found,) = artifact.run(x)
    assert np.array_equal(np.asarray(found), integer.run(x)[0].numpy())


@lru_cache
def _digits() -> tuple[Program, list[tuple[torch.Tensor, ...]]]:
    entry = fx.zoo.load("digits-cnn")
    program = fx.capture(entry.model, entry.inputs, dynamic_shapes=entry.dynamic_shapes)
    return FoldBatchNorm().apply(program, Context()), [(part,) for part in torch.split(digits().train[0][:128], 32)]


@pytest.mark.parametrize(("method", "bits"), [("adaquant", 4), ("adaquant", 2), ("gptq", 3)])
def test_on_digits_every_layer_has_less_error_on_held_out_images(method: str, bits: int) -> None:
    program, images = _digits()
    context = Context(Evidence(Calibration(images)))
    nearest = PlaceQuantizers(weight_bits=bits, edge_bits=bits).apply(program, context)
    found = Reconstruct(method=method, steps=12).apply(nearest, context)
    held = [(fx.zoo.load("digits-cnn").held_out[0][:64],)]
    names = [layer.name for layer in layers_of(nearest, Context())]
    old, new = (layer_errors(item, nearest, held, names) for item in (nearest, found))
    assert len(names) == 10
    assert all(new[name] < 0.8 * old[name] for name in names)


@pytest.mark.parametrize("method", ["statistics", "bias"])
def test_the_mean_error_of_channels_falls(method: str) -> None:
    """Of all layers, on data that were not learnt from."""
    before, after = simulated(every_kind(), 2), _learnt(method, 2)
    held = [sample(before, 256, 11)]
    names = [layer.name for layer in layers_of(before, Context())]
    old, new = ([_mean_error(program, before, name, held[0]) for name in names] for program in (before, after))
    assert sum(new) < 0.5 * sum(old)
    assert all(b < a for a, b in zip(old[1:], new[1:], strict=True))  # the first layer's inputs are noise around zero: no mean error


def _mean_error(program: Program, reference: Program, name: str, batch: tuple[torch.Tensor, ...]) -> float:
    """The mean over channels of |E[y' - y]|."""
    seen = []
    for item, floats in ((program, False), (reference, True)):
        node = next(node for node in item.graph.nodes if node.name == name)
        axis = -1 if "linear" in name else 1
        edit = item.edit()
        if floats:
            for quantizer in [node for node in edit.graph.nodes if "fake_quantize" in str(node.target)]:
                edit.replace(quantizer, quantizer.args[0])  # type: ignore[arg-type]
        edit.graph.output_node().args = ((edit.here(node),),)
        (value,) = edit.finish(stage="float" if floats else item.stage).run(*batch)
        seen.append(value.movedim(axis, -1).flatten(0, -2).double().mean(0))
    return float((seen[0] - seen[1]).abs().mean())


@pytest.mark.parametrize("method", ["adaquant", "gptq"])
@pytest.mark.parametrize("sequential", [True, False])
def test_layer_after_layer_or_each_by_itself(method: str, sequential: bool) -> None:
    program = simulated(every_kind(), 3)
    context = data(program)
    found = Reconstruct(method=method, sequential=sequential, steps=15).apply(program, context)
    inputs = sample(program, 64, 9)
    wanted = every_kind().run(*inputs)
    assert difference(wanted, found.run(*inputs)).sqnr > difference(wanted, program.run(*inputs)).sqnr + 3
    assert len(context.notes) == 7
    assert str(context.notes[0]).startswith("conv2d: error 0.")


@pytest.mark.parametrize("method", LEARNING)
def test_zeros_of_sparsify_stay_and_are_told(method: str) -> None:
    net = every_kind()
    pruned = Sparsify(score="magnitude", sparsity=0.4, skip_ends=False).apply(net, data(net))
    program = simulated(pruned, 4)
    context = data(program)
    found = Reconstruct(method=method, steps=10).apply(program, context)
    told = {str(note).split(":")[0]: str(note) for note in context.notes}
    for layer in layers_of(program, Context()):
        zero = program.tensors[layer.weight].detach() == 0
        assert bool(zero.any()) != layer.name.startswith("conv_transpose")
        assert not found.tensors[layer.weight].detach()[zero].any()
        assert not zero.any() or f"{int(zero.sum())} zeros kept" in told[layer.name]


def test_a_second_one_aims_at_the_float_program_too() -> None:
    program = simulated(every_kind(), 2)
    batches = list(data(program).evidence.calibration.batches(program))
    result = Pipeline.parse('reconstruct{method="gptq"}, reconstruct{method="bias"}').run(program, calibration=batches)
    first, second = result.report.steps
    assert "error" in str(first.notes[0])
    befores = [float(str(note).split()[4].strip(",")) for note in first.notes]
    agains = [float(str(note).split()[2]) for note in second.notes]
    assert agains == pytest.approx(befores, rel=0.05)  # of the same aim, over inputs that biases have moved a little
    weight = layers_of(program, Context())[-1].weight
    assert not torch.equal(program.tensors[weight], result.program.tensors[weight])


def test_weights_that_were_trained_in_between_are_the_aim_themselves() -> None:
    program = simulated(every_kind(), 4)
    context = data(program)
    edit = program.edit()
    for layer in layers_of(program, Context()):
        edit.tensors[layer.weight] = edit.tensors[layer.weight].detach() * 1.5
    trained = edit.finish()
    alone, after = Context(context.evidence), Context(context.evidence, losses=((program, Reconstruct(steps=2).apply(program, context)),))
    results = [Reconstruct(method="gptq").apply(trained, each) for each in (alone, after)]
    assert results[0].hash == results[1].hash
    assert list(map(str, alone.notes)) == list(map(str, after.notes))


def test_layers_that_share_a_weight_still_do() -> None:
    program = simulated(captured(LayerTwice(), 1, 4), 3)
    found = applied(Reconstruct(method="gptq"), program, data(program))
    integer = ToInteger().apply(found, Context())
    assert sum(name.endswith("int8") for name in integer.tensors) == 1


def test_attention_and_symbolic_sizes() -> None:
    prepared = Pipeline.parse("place-quantizers{weight_bits=3}").run(sequence_program(), calibration=[sample(sequence_program(), 8, 0)])
    program = prepared.program
    found = applied(Reconstruct(method="flexround", steps=2), program, data(program))
    assert found.symbols() == program.symbols()
    assert ToInteger().apply(found, Context()).stage == "integer"


def test_the_same_again_and_samples_are_whole_batches() -> None:
    program = simulated(every_kind(), 3)
    item = Reconstruct(steps=3, samples=40)
    batches = list(data(program).evidence.calibration.batches(program))
    first, again, fewer = (item.apply(program, Context(Evidence(Calibration(part)))) for part in (batches, batches, batches[:2]))
    assert first.hash == again.hash == fewer.hash
    assert Reconstruct(steps=3).apply(program, Context(Evidence(Calibration(batches)))).hash != first.hash


def test_progress_is_told_to_the_end() -> None:
    program, told = simulated(every_kind(), 3), list[tuple[str, int, int]]()
    context = data(program)
    context.progress = lambda *step: told.append(step)
    Reconstruct(steps=4).apply(program, context)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[-1] == ("reconstructing", 28, 28)


def test_without_data_or_quantisers_it_says_so() -> None:
    with pytest.raises(CalibrationError):
        Reconstruct().apply(simulated(every_kind()), Context())
    with pytest.raises(PipelineError, match="reconstruct: takes simulated programs"):
        Pipeline([Reconstruct()]).run(every_kind())
    nothing = simulated(captured(nn.ReLU(), 1, 4))
    assert Reconstruct().apply(nothing, Context()) is nothing


def test_order_is_checked_before_anything_runs() -> None:
    for late in ("correct-bias", "compensate"):
        with pytest.raises(PipelineError, match=f"reconstruct comes after {late}"):
            Pipeline.parse(f"place-quantizers, {late}, reconstruct")


def test_compensate_finds_nothing_that_biases_have_not_taken_up() -> None:
    program = simulated(every_kind(), 2)
    context = data(program)
    found = Reconstruct(method="gptq").apply(program, context)
    context.losses = ((program, found),)
    assert Compensate(rank=1).apply(found, context) is found


@pytest.mark.parametrize(
    "given",
    [
        {"method": "rounding"},
        {"samples": 0},
        {"steps": 0},
        {"rate": -1.0},
        {"damping": 0.0},
        {"order": "reverse"},
        {"method": "bias", "biases": False},
    ],
)
def test_an_option_without_meaning_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(PassError, match=next(iter(given))):
        Reconstruct(**given)  # type: ignore[arg-type]
