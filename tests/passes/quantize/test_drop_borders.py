"""Without float borders a program gives the bits that it gave, up to the border; what is not quantised there is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from float_programs import BATCHES, Chain, Function, captured, measured, sample, untouched
from fxpress_ir import Edit, Program, capture, run_on_reals, text, to_steps, verify
from fxpress_ir.errors import PipelineError, RefusalError
from fxpress_ir.ops import arguments
from fxpress_passes import Context, PlaceQuantizers, QuantizeDyadic, ToInteger
from fxpress_passes.pipeline import Pipeline
from fxpress_passes.quantize.drop_borders import drop_borders
from fxpress_passes.quantize.place_quantizers import place
from quantized import two_paths
from support import built, fxp
from torch import Tensor, fx, nn
from torch.nn import functional

U8, S8 = torch.uint8, torch.int8


def _both(program: Program, **options: Any) -> tuple[Program, Program]:
    """The program with float borders and without."""
    simulated = PlaceQuantizers(**options).apply(program, measured(program))
    with untouched(simulated):
        bordered, bare = (ToInteger(io).apply(simulated, Context()) for io in ("float", "integer"))
    verify(bare)
    assert (bare.stage, bare.islands) == (bordered.stage, bordered.islands)
    return bordered, bare


def _check_same_bits(bordered: Program, bare: Program) -> None:
    for batch in BATCHES:
        inputs = sample(bordered, batch, seed=50)
        for wide in (inputs, tuple(x * 100 if x.is_floating_point() else x for x in inputs)):
            for expected, found in zip(bordered.run(*wide), run_on_reals(bare, *wide), strict=True):
                assert expected.dtype == found.dtype
                assert torch.equal(expected, found)


EXPECTED = """\
integer program(x: int8[batch, 3, 4, 4] in steps of s)
  %0.bias.int32 : s32[2]
  %0.weight.int8 : s8[2, 3, 3, 3]
  %conv2d.multiplier : s32[2]
  conv2d_acc = fxp.conv2d(x, %0.weight.int8, %0.bias.int32, [1, 1], [1, 1, 1, 1], [1, 1], 1) : s32[batch, 2, 4, 4]
  conv2d_out = fxp.requantize(conv2d_acc, %conv2d.multiplier, 16, 0, 255, 1, u8) : u8[batch, 2, 4, 4]
  max_pool2d_out = fxp.max_pool2d(conv2d_out, [2, 2], [2, 2], [0, 0, 0, 0], [1, 1]) : u8[batch, 2, 2, 2]
  return max_pool2d_out in steps of s"""


def test_before_and_expected() -> None:
    program = captured(Chain(nn.Conv2d(3, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)), 1, 3, 4, 4)
    bordered, bare = _both(program)
    assert re.sub(r"\b\d\.\d+(e-\d+)?\b", "s", text(bare)) == EXPECTED
    borders = {node.target: arguments(node)["scale"] for node in bordered.graph.nodes if "quantize_default" in node.name}
    assert (bare.inputs[0].scale, *bare.output_scales) == (borders[fxp.quantize.default], borders[fxp.dequantize.default])
    _check_same_bits(bordered, bare)


class Several(nn.Module):
    """Two inputs of which one is unsigned, a mask that is an integer, and outputs of several types, one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor, y: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
        z = self.layer(x)
        return z, z, functional.relu(z) + functional.relu(y), ids


def _several() -> Program:
    batch = torch.export.Dim("batch")
    inputs = (torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, dtype=torch.int64))
    return capture(Several(), inputs, dynamic_shapes={name: {0: batch} for name in ("x", "y", "ids")})


PROGRAMS: dict[str, tuple[Callable[[], Program], dict[str, Any]]] = {
    "a network": (two_paths, {}),
    "16 bits": (two_paths, {"activation_bits": 16}),
    "several ends": (_several, {}),
    "an input that is returned": (lambda: captured(lambda x: (functional.max_pool2d(x, 2), x), 1, 4, 6, 6), {}),
    "sizes of an input": (lambda: captured(lambda x: functional.relu(x).view(x.shape[0] * 2, -1), 1, 4, 6, 6), {}),
    "an island inside": (lambda: captured(Chain(nn.Linear(3, 3), Function(lambda x: x.cumsum(1)), nn.Linear(3, 2)), 1, 3), {}),
    "an input that an island reads quantised": (lambda: captured(lambda x: functional.relu(x.cumsum(1)) + functional.relu(x), 1, 4), {}),
    "a table": (lambda: captured(Chain(nn.Linear(3, 3), nn.Hardswish()), 1, 3), {}),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_bits_are_those_of_the_program_with_borders(name: str) -> None:
    make, options = PROGRAMS[name]
    bordered, bare = _both(make(), **options)
    assert all(not spec.dtype.is_floating_point for spec in bare.inputs)
    assert all(not node.meta["val"].dtype.is_floating_point for node in bare.outputs())
    _check_same_bits(bordered, bare)


def test_ends_that_were_integers_have_no_scale() -> None:
    _, bare = _both(_several())
    assert [(str(spec.dtype), spec.scale is None) for spec in bare.inputs] == [
        ("torch.int8", False),
        ("torch.int8", False),
        ("torch.int64", True),
    ]
    assert [scale is None for scale in bare.output_scales] == [False, False, False, True]


def test_integers_that_an_island_computes_may_leave() -> None:
    program = captured(lambda x: torch.cat([functional.relu(x), x], 1).argmax(1), 1, 4)
    bordered, bare = _both(program)
    assert (bare.stage, bare.output_scales, bare.outputs()[0].meta["val"].dtype) == ("mixed", (None,), torch.int64)
    _check_same_bits(bordered, bare)


def _narrow() -> Program:
    """x in [-100, 90] of s8, summed up by weights of 1."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        q = edit.call(fxp.quantize.default, x, 0.5, -100, 90, S8)
        weight = edit.add_tensor("weight", torch.ones(1, 4, dtype=S8))
        return edit.call(fxp.dequantize.default, edit.call(fxp.linear.default, q, weight, None), 0.5)

    return built((1, 4), body)


def test_a_range_narrower_than_its_type_is_held_to_inside() -> None:
    """So that no integer that the type admits leaves what was proved."""
    bordered = _narrow()
    bare = drop_borders(bordered)
    verify(bare)
    assert [str(node.target) for node in bare.graph.nodes if node.op == "call_function"] == ["fxp.requantize.default", "fxp.linear.default"]
    q = torch.arange(-128, 128).to(S8).reshape(-1, 4)
    assert torch.equal(bare.run(q)[0], q.int().clamp(-100, 90).sum(1, keepdim=True).to(torch.int32))
    _check_same_bits(bordered, bare)


@pytest.mark.parametrize("most", [400, 20001])
def test_16_bit_codes_that_sums_keep_small_are_held_too(most: int) -> None:
    program = two_paths()
    plan = PlaceQuantizers(activation_bits=16).decide(program, measured(program))
    grid = replace(plan.activations["x"], qmin=-most - 1, qmax=most)
    simulated = place(program, replace(plan, activations={**plan.activations, "x": grid}))
    bordered, bare = (ToInteger(io).apply(simulated, Context()) for io in ("float", "integer"))
    (held,) = (node for node in bare.graph.nodes if node.name == "x_held")
    assert (arguments(held)["qmin"], arguments(held)["qmax"]) == (-most - 1, most)
    verify(bare)
    _check_same_bits(bordered, bare)


def test_a_pipeline_compares_and_evaluates_it_on_real_numbers() -> None:
    program = two_paths()
    batches = [sample(program, 4, seed) for seed in range(3)]

    def evaluate(run: Callable[..., tuple[Tensor, ...]]) -> float:
        return float(run(*batches[0])[0].double().sum())

    results = [
        Pipeline.parse(f"quantize-dyadic{{io={io}}}, eliminate-dead-code").run(program, batches, evaluate) for io in ("float", "integer")
    ]
    one, other = (result.report for result in results)
    assert one.quality == other.quality
    assert [step.against_input for step in one.steps] == [step.against_input for step in other.steps]
    assert all(step.promise_held in (True, None) for step in other.steps)
    assert results[1].program.history[-1] == 'to-integer{io="integer"}'
    again = Pipeline.parse("eliminate-dead-code").run(results[1].program, [to_steps(results[1].program.inputs, batches[0])])
    assert again.program is results[1].program


def _island_reads(x: Tensor) -> Tensor:
    return functional.relu(x.cumsum(1))


REFUSED: dict[str, tuple[Callable[[], Program], str]] = {
    "an input that only an island reads": (lambda: captured(_island_reads, 1, 4), "input 'x': cumsum reads it in floats"),
    "an output of an island": (
        lambda: captured(Chain(nn.Linear(3, 3), Function(lambda x: x.cumsum(1))), 1, 3),
        "output 0: cumsum computes it in floats",
    ),
    "an input that nothing reads": (
        lambda: capture(_Second(), (torch.zeros(2, 3), torch.zeros(2, 3))),
        "input 'x': no operator reads it quantised",
    ),
    "an input that is only returned": (
        lambda: capture(_Second(also=True), (torch.zeros(2, 3), torch.zeros(2, 3))),
        "input 'x': it is returned in floats",
    ),
}


class _Second(nn.Module):
    """The ReLU of the second input, and the first as it is where `also`."""

    def __init__(self, *, also: bool = False) -> None:
        super().__init__()
        self.also = also

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return (functional.relu(y), x) if self.also else (functional.relu(y),)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_quantised_at_an_end_is_refused(name: str) -> None:
    make, message = REFUSED[name]
    program = make()
    with untouched(program), pytest.raises(RefusalError) as caught:
        QuantizeDyadic(io="integer").apply(program, measured(program))
    assert str(caught.value) == f'to-integer, {message}; take it out of the program, or use io="float"'
    assert QuantizeDyadic().apply(program, measured(program)).stage in ("integer", "mixed")


def test_an_input_of_two_scales_is_refused() -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        parts = [edit.call(fxp.quantize.default, x, scale, -128, 127, S8) for scale in (0.5, 0.25)]
        return edit.call(fxp.add.default, *parts, 1, 1, 1, -128, 127, S8)

    with pytest.raises(RefusalError, match=r"input 'x': it is quantised in steps of 0.5 and of 0.25; use one, or io=\"float\""):
        drop_borders(built((1, 3), body))


def test_an_input_that_is_quantised_twice_alike_is_taken_once() -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        parts = [edit.call(fxp.quantize.default, x, 0.5, 0, 200, U8) for _ in range(2)]
        return edit.call(fxp.dequantize.default, edit.call(fxp.add.default, *parts, 1, 1, 1, 0, 255, U8), 1.0)

    bordered = built((1, 3), body)
    bare = drop_borders(bordered)
    assert [node.name for node in bare.graph.nodes if node.op == "call_function"] == ["x_held", "add_default"]
    _check_same_bits(bordered, bare)


def test_an_unknown_io_is_refused_when_the_pass_is_made() -> None:
    with pytest.raises(PipelineError, match="to-integer: io='ints'; one of float, integer"):
        ToInteger("ints")
    with pytest.raises(PipelineError, match="to-integer: io=3 is no str"):
        Pipeline.parse("to-integer{io=3}")
