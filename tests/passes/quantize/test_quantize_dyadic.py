"""quantize-dyadic = place-quantizers, then to-integer; a small trained-like network keeps its function."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from blocks import BLOCKS, LENGTH, MOST, block, calibration, example
from float_programs import BATCHES, Chain, Function, captured, measured, residual_program, sample, untouched
from fxpress_ir import Program, text, verify
from fxpress_ir.analysis.saturation import saturation
from fxpress_ir.errors import PipelineError, RefusalError
from fxpress_passes import Context, PlaceQuantizers, QuantizeDyadic, ToInteger
from fxpress_passes.contract import difference, options_of
from fxpress_passes.pipeline import Pipeline, Result
from networks import NETWORKS
from quantized import network_stages, quantized, two_paths
from torch import Tensor, nn

USUAL = "fold-constants, fold-batch-norm, quantize-dyadic{{weight_bits={}}}"


@lru_cache
def _compressed(weight_bits: int) -> Result:
    """The residual net with its norms, through the usual pipeline."""
    program = residual_program()
    return Pipeline.parse(USUAL.format(weight_bits)).run(program, calibration=[sample(program, 16, seed) for seed in range(8)])


def _held_out(batch: int) -> tuple[Tensor, ...]:
    return sample(residual_program(), batch, seed=1000)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_it_is_the_sum_of_its_parts(bits: int) -> None:
    program = two_paths()
    with untouched(program):
        result = QuantizeDyadic(bits).apply(program, measured(program))
    assert QuantizeDyadic(bits).parts() == (PlaceQuantizers(bits), ToInteger())
    assert result.hash == quantized(program, weight_bits=bits).integer.hash
    assert (result.stage, program.stage) == ("integer", "float")


def test_options_are_checked_when_it_is_made() -> None:
    with pytest.raises(PipelineError, match="weight_bits=9; one of 8, 7, 6, 5, 4, 3, 2"):
        QuantizeDyadic(weight_bits=9)
    with pytest.raises(PipelineError, match="ranges='max'; one of minmax, percentile, mse, entropy"):
        QuantizeDyadic(ranges="max")
    with pytest.raises(PipelineError, match="to-integer: io='int'; one of float, integer"):
        QuantizeDyadic(io="int")


def test_its_options_are_those_of_its_parts() -> None:
    assert options_of(QuantizeDyadic) == {**options_of(PlaceQuantizers), **options_of(ToInteger)}
    whole = QuantizeDyadic(4, 16, 2, "mse", "percentile", 99.0, 30.0, True, "integer")
    assert whole.parts() == (PlaceQuantizers(4, 16, 2, "mse", "percentile", 99.0, 30.0, True), ToInteger("integer", integer_only=True))


def test_what_has_no_integer_form_is_refused_when_only_integers_will_do() -> None:
    program, context = captured(Chain(nn.Linear(3, 3), Function(lambda x: x.cumsum(1))), 1, 3), Context()
    with untouched(program), pytest.raises(RefusalError, match=r"place-quantizers, node cumsum: aten\.cumsum\.default has no integer form"):
        QuantizeDyadic(integer_only=True).apply(program, context)


def test_what_has_no_integer_form_becomes_a_named_island_otherwise() -> None:
    program = captured(Chain(nn.Linear(3, 3), Function(lambda x: x.cumsum(1)), nn.Linear(3, 2)), 1, 3)
    result = QuantizeDyadic().apply(program, measured(program))
    assert (result.stage, result.islands) == ("mixed", ("cumsum",))
    verify(result)
    inputs = sample(program, 3, seed=1)
    assert difference(program.run(*inputs), result.run(*inputs)).sqnr >= 25


@pytest.mark.parametrize(("bits", "floor"), [(8, 25.0), (4, 10.0)])
def test_end_to_end_the_function_is_kept(bits: int, floor: float) -> None:
    """On data that calibration has not seen."""
    program, integer = residual_program(), _compressed(bits).program
    inputs = _held_out(64)
    found = difference(program.run(*inputs), integer.run(*inputs))
    assert found.sqnr >= floor
    assert verify(integer).stage == "integer"


FLOORS = {"inception": 20.0, "densenet": 20.0, "unet": 20.0, "squeeze-excitation": 18.0, "shufflenet": 18.0}
"""Signal to noise in dB; less is asked for where there are depthwise convolutions, whose few products average no noise out."""


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_in_the_manner_of_well_known_ones_keep_their_function(name: str) -> None:
    stages = network_stages(name)
    certificate = verify(stages.integer)
    assert (certificate.stage, stages.integer.islands) == ("integer", ())
    assert all(fact["least"] <= fact["low"] and fact["high"] <= fact["most"] for fact in certificate.facts)
    for batch in BATCHES:
        (x,) = sample(stages.float, batch, seed=1000)
        assert difference(stages.float.run(x), stages.integer.run(x)).sqnr >= FLOORS[name]
        assert saturation(stages.integer, x).share < 0.01


@pytest.mark.parametrize("name", BLOCKS)
def test_transformer_blocks_keep_their_function_in_integers_alone(name: str) -> None:
    program = block(name)
    pipeline = Pipeline.parse("fold-constants, quantize-dyadic{integer_only=true}")
    integer = pipeline.run(program, calibration=calibration(name)).program
    certificate = verify(integer)
    assert (certificate.stage, integer.islands) == ("integer", ())
    assert all(fact["least"] <= fact["low"] and fact["high"] <= fact["most"] for fact in certificate.facts)
    lengths = (LENGTH, MOST) if name == "decoder" else (LENGTH, LENGTH)
    for batch, length in zip(BATCHES, lengths, strict=True):
        inputs = example(name, batch, 99, length)
        assert difference(program.run(*inputs), integer.run(*inputs)).sqnr >= 35


@pytest.mark.parametrize("options", ["weight_bits=4", "activation_bits=16", "ranges=mse"])
def test_transformer_blocks_take_the_other_options_too(options: str) -> None:
    pipeline = Pipeline.parse(f"fold-constants, quantize-dyadic{{integer_only=true, {options}}}")
    integer = pipeline.run(block("pre-norm"), calibration=calibration("pre-norm")).program
    assert verify(integer).stage == "integer"
    inputs = example("pre-norm", 3, 99)
    assert difference(block("pre-norm").run(*inputs), integer.run(*inputs)).sqnr >= 20


@pytest.mark.parametrize("ranges", ["percentile", "mse", "entropy"])
def test_other_ranges_keep_the_function_too(ranges: str) -> None:
    program = residual_program()
    pipeline = f"fold-constants, fold-batch-norm, quantize-dyadic{{ranges={ranges}, border_ranges=mse}}"
    result = Pipeline.parse(pipeline).run(program, calibration=[sample(program, 16, seed) for seed in range(4)])
    (x,) = _held_out(64)
    assert difference(program.run(x), result.program.run(x)).sqnr >= 20


@pytest.mark.parametrize("batch", BATCHES)
def test_samples_do_not_see_each_other(batch: int) -> None:
    integer = _compressed(8).program
    (together,) = integer.run(*_held_out(16))
    for first in range(0, 16 - batch + 1, batch):
        (some,) = integer.run(*(x[first : first + batch] for x in _held_out(16)))
        assert torch.equal(some, together[first : first + batch])


def test_weights_take_a_quarter_of_the_bytes() -> None:
    before, after = residual_program().cost(), _compressed(8).program.cost()
    assert after.macs == before.macs
    assert after.weight_bytes < 0.35 * before.weight_bytes  # a quarter, and 8 bytes a channel


def test_it_gives_the_same_bits_again() -> None:
    def once() -> Program:
        program = two_paths()
        return Pipeline([QuantizeDyadic()]).run(program, calibration=[sample(program, 4)]).program

    first, second = once(), once()
    assert first.hash == second.hash
    assert text(first) == text(second)


def test_no_input_makes_an_integer_leave_its_range() -> None:
    """The proof holds for all inputs, so the largest ones only saturate."""
    program, integer = residual_program(), _compressed(8).program
    (plus,), (minus,) = (integer.run(sign * 1e30 * torch.ones_like(sample(program, 2)[0])) for sign in (1.0, -1.0))
    assert bool(torch.isfinite(plus).all())
    assert bool(torch.isfinite(minus).all())
    facts = verify(integer).facts
    assert facts
    assert all(fact["least"] <= fact["low"] and fact["high"] <= fact["most"] for fact in facts)
