"""Precisions of single layers are read, written, and taken by `place-quantizers`; what names nothing is an error."""

from __future__ import annotations

import pytest
import torch
from float_programs import Chain, captured
from fxpress_ir.errors import PassError, PipelineError
from fxpress_passes import PlaceQuantizers
from fxpress_passes.pipeline import Pipeline
from fxpress_passes.quantize.precision import Precision, entries, precisions, weighted_layers
from fxpress_passes.quantize.recognize import recognize
from quantized import measured
from torch import nn


def _program() -> tuple[object, ...]:
    torch.manual_seed(0)
    return (captured(Chain(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 12), nn.GELU(), nn.Linear(12, 3)), 2, 12),)


def test_entries_are_what_precisions_reads() -> None:
    found = {"a": Precision(4, 16), "b": Precision(2)}
    assert entries(found) == ("a=w4a16", "b=w2a8")
    assert precisions(entries(found), "here") == found
    assert precisions(("a=w3",), "here") == {"a": Precision(3, 8)}


@pytest.mark.parametrize("given", [("a",), ("a=4",), ("a=w1",), ("a=w9",), ("a=w4a4",), ("a=w4", "a=w8"), (4,)])
def test_anything_else_is_an_error(given: tuple[str, ...]) -> None:
    with pytest.raises(PipelineError, match=r"here(: bits|, bits of a)"):
        precisions(given, "here")


def test_layers_are_those_with_weights_in_order() -> None:
    (program,) = _program()
    assert list(weighted_layers(recognize(program.graph))) == ["linear", "linear_1", "linear_2"]


def test_a_named_layer_takes_its_own_bits() -> None:
    (program,) = _program()
    text = 'place-quantizers{bits=["linear=w2", "linear_1=w5a16"]}'
    (item,) = Pipeline.parse(text).passes
    assert str(item) == text
    assert isinstance(item, PlaceQuantizers)
    context = measured(program)
    plan = item.decide(program, context)
    assert {name: snapped.bits for name, snapped in plan.weights.items()} == {"linear": 2, "linear_1": 5, "linear_2": 8}
    assert {name: grid.bits for name, grid in plan.activations.items()} == {"x": 8, "relu": 16, "gelu": 8, "linear_1": 8, "linear_2": 16}
    plain = PlaceQuantizers().decide(program, context)
    assert plain.activations["relu"].bits == 8


def test_a_name_that_is_no_layer_is_an_error_with_the_nearest() -> None:
    (program,) = _program()
    with pytest.raises(PassError, match="bits names 'linear_4', which is no layer with weights; did you mean 'linear"):
        PlaceQuantizers(bits=("linear_4=w4",)).apply(program, measured(program))
