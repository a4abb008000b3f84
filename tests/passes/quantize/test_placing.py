"""What placing passes share: options are checked under the pass's own name, and the plan is of the precisions that are given."""

from __future__ import annotations

import pytest
import torch
from float_programs import Chain, captured
from fxpress_ir.errors import PassError, PipelineError, RefusalError
from fxpress_passes import Context
from fxpress_passes.quantize.placing import Placing, place
from fxpress_passes.quantize.precision import Precision, weighted_layers
from fxpress_passes.quantize.recognize import Recognition
from quantized import measured
from torch import fx, nn


def _four(recognition: Recognition) -> dict[fx.Node, Precision]:
    return {node: Precision(4, 16) for node in weighted_layers(recognition).values()}


def test_layers_have_the_precision_that_is_given() -> None:
    torch.manual_seed(0)
    program = captured(Chain(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)), 2, 6)
    plan = Placing("mine").decide(program, measured(program), _four)
    assert {name: weight.bits for name, weight in plan.weights.items()} == {"linear": 4, "linear_1": 4}
    assert plan.activations["tanh"].bits == 16
    assert place(program, plan).stage == "simulated"


def test_a_plan_of_another_program_is_refused() -> None:
    program, other = captured(Chain(nn.Linear(6, 2)), 2, 6), captured(Chain(nn.Flatten()), 2, 6)
    plan = Placing("mine").decide(program, measured(program), _four)
    with pytest.raises(PassError, match="the plan names 'linear'; use the plan of this very program"):
        place(other, plan)


def test_an_island_is_named_with_the_pass() -> None:
    program = captured(Chain(nn.Linear(6, 2), nn.Softplus(), nn.Softmax(0)), 2, 6)
    context: Context = measured(program)
    with pytest.raises(RefusalError, match=r"^mine, node "):
        Placing("mine", integer_only=True).decide(program, context, _four)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation_bits": 4}, "mine: activation_bits=4; one of 8, 16"),
        ({"ranges": "all"}, "mine: ranges='all'; one of minmax, percentile, mse, entropy"),
        ({"input_floor": 61.0}, "mine: input_floor=61.0; 0 to 60, in dB"),
    ],
)
def test_errors_name_the_pass(options: dict[str, object], message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        Placing("mine", **options)  # type: ignore[arg-type]
    assert str(caught.value) == message
