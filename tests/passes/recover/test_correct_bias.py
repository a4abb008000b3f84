"""The bias takes up the mean error of its own layer's weight, per channel."""

from __future__ import annotations

import pytest
import torch
from float_programs import Chain, applied, captured, measured, sample, untouched
from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError
from fxpress_ir.ops import arguments
from fxpress_passes import Context, CorrectBias, PlaceQuantizers, ToInteger
from fxpress_passes.contract import difference
from torch import nn


def _simulated(program: Program, bits: int = 4) -> Program:
    return PlaceQuantizers(weight_bits=bits, edge_bits=bits).apply(program, measured(program))


def _net() -> Program:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))
    return captured(Chain(*layers), 1, 3, 6, 6)


def test_a_single_layer_gets_exactly_its_mean_error() -> None:
    program = captured(Chain(nn.Linear(6, 4)), 1, 6)
    simulated, context = _simulated(program), measured(program)
    after = applied(CorrectBias(), simulated, context)
    (node,) = [node for node in after.graph.nodes if str(node.target) == "aten.linear.default"]
    named = arguments(node)
    weight = program.tensors["0.weight"].detach()
    (quantizer,) = [node for node in simulated.graph.nodes if "channels" in str(node.target)]
    scale = simulated.tensors[str(arguments(quantizer)["scale"].target)]
    rounded = torch.ops.fxp.fake_quantize_channels(weight, scale, 0, -7, 7)
    batches = [batch[0] for batch in context.evidence.calibration.batches(program)]
    x_scale = next(arguments(node)["scale"] for node in simulated.graph.nodes if str(node.target) == "fxp.fake_quantize.default")
    inputs = torch.ops.fxp.fake_quantize(torch.cat(batches), x_scale, -128, 127).double()
    expected = program.tensors["0.bias"].detach().double() + (inputs @ (weight - rounded).double().T).mean(0)
    assert torch.allclose(after.tensors[str(named["bias"].target)].double(), expected, rtol=1e-5, atol=1e-7)


def test_a_layer_without_a_bias_gets_one_and_the_program_still_becomes_integers() -> None:
    program = _net()
    simulated = _simulated(program)
    with untouched(simulated):
        after = CorrectBias().apply(simulated, measured(program))
    convolutions = [node for node in after.graph.nodes if str(node.target) == "aten.conv2d.default"]
    assert all(arguments(node)["bias"] is not None for node in convolutions)
    assert ToInteger().apply(after, Context()).stage == "integer"


@pytest.mark.parametrize("bits", [4, 2])
def test_it_brings_few_bits_nearer_to_the_float_program(bits: int) -> None:
    program = _net()
    simulated = _simulated(program, bits)
    after = CorrectBias().apply(simulated, measured(program))
    inputs = sample(program, 256, seed=9)
    outputs = program.run(*inputs)
    assert difference(outputs, after.run(*inputs)).sqnr > difference(outputs, simulated.run(*inputs)).sqnr


def test_without_weights_there_is_nothing_to_do() -> None:
    program = captured(Chain(nn.MaxPool2d(2), nn.ReLU()), 1, 3, 4, 4)
    simulated = _simulated(program)
    assert CorrectBias().apply(simulated, measured(program)) is simulated


def test_without_calibration_data_it_says_so() -> None:
    with pytest.raises(CalibrationError):
        CorrectBias().apply(_simulated(_net()), Context())
