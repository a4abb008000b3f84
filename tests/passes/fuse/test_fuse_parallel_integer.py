"""Layers beside each other become one in integers: the same bits, each slice on its own grid, on every target."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import fxpress as fx
import numpy as np
import pytest
import torch
from blocks import block, calibration, example
from encoder import Encoder
from float_programs import applied, captured, operators, refusals, sample, untouched
from fxpress_ir import Program, verify
from fxpress_ir.ops import arguments
from fxpress_passes import Context
from fxpress_passes.fuse.fuse_parallel_integer import FuseParallelInteger
from fxpress_passes.latency import TimeRatio
from fxpress_passes.pipeline import Pipeline
from support import aten, built, fxp, multipliers, requantize
from torch import Tensor

TARGETS = ("reference", "onnx:int", "onnx:qlinear", "tvm:x86-64", "tvm:native")
INTEGERS = "quantize-dyadic{integer_only=true, input_floor=0}"


@lru_cache
def integer(name: str) -> Program:
    """A small encoder, or a small gated decoder whose length is dynamic too."""
    if name == "encoder":
        program = captured(Encoder(width=32, heads=2, depth=1), 2, 6, 4)
        data = [sample(program, 8, seed) for seed in range(4)]
    else:
        program, data = block("decoder"), calibration("decoder")
    return Pipeline.parse(INTEGERS).run(program, calibration=data).program


@lru_cache
def fused(name: str) -> Program:
    return FuseParallelInteger().apply(integer(name), Context())


def count(program: Program, operator: object) -> int:
    return len(program.graph.find_nodes(op="call_function", target=operator))


@pytest.mark.parametrize(("name", "layers", "parts"), [("encoder", 2, 3), ("decoder", 3, 5)])
def test_queries_keys_and_values_and_gate_and_up_are_one_layer_each(name: str, layers: int, parts: int) -> None:
    before, after = integer(name), fused(name)
    verify(after)
    assert count(before, fxp.linear.default) - count(after, fxp.linear.default) == layers
    slices = [node for node in after.graph.find_nodes(op="call_function", target=aten.slice.Tensor) if "joined" in node.args[0].name]
    assert len(slices) == parts
    kept = [op for op in operators(before) if op in ("fxp.attention", "fxp.lut", "fxp.rotary")]
    assert [op for op in operators(after) if op in ("fxp.attention", "fxp.lut", "fxp.rotary")] == kept
    assert FuseParallelInteger().apply(after, Context()) is after


def test_each_slice_keeps_the_multipliers_of_its_layer() -> None:
    def numbers(program: Program, place: str) -> list[Tensor]:
        found = program.graph.find_nodes(op="call_function", target=fxp.requantize.default)
        return [program.tensors[str(arguments(node)["b"].target)] for node in found if place in arguments(node)["x"].name]

    (whole,) = numbers(fused("encoder"), "joined")
    parts = [values for name in ("linear_1_", "linear_2_", "linear_3_") for values in numbers(integer("encoder"), name)]
    assert torch.equal(whole, torch.cat(parts))


INPUTS = {
    "encoder": [sample(captured(Encoder(width=32, heads=2, depth=1), 2, 6, 4), batch, seed=batch) for batch in (1, 3)],
    "decoder": [example("decoder", batch, 9, length) for batch, length in ((1, 6), (3, 9))],
}


BUILT = (("tvm:native", "decoder"),)
"""What TVM compiles in every run of the tests; the other builds are slow, and their kernels have tests of their own."""
CASES = [
    pytest.param(target, name, marks=[pytest.mark.slow] if "tvm" in target and (target, name) not in BUILT else [])
    for target in TARGETS
    for name in INPUTS
]


@pytest.mark.parametrize(("target", "name"), CASES)
def test_every_target_gives_the_same_bits(target: str, name: str, tmp_path: Path) -> None:
    artifact = fx.lower(fused(name), target, out=tmp_path / "model")
    for inputs in INPUTS[name]:
        (expected,), (found,) = integer(name).run(*inputs), artifact.run(*inputs)
        np.testing.assert_array_equal(found, expected.numpy())


Settings = dict[str, tuple[int, int, int, int, torch.dtype]]
BYTES = (-128, 127, -1, torch.int8)


def beside(**layers: tuple[int, Tensor, tuple[object, ...]]) -> Program:
    """Layers of 8 outputs on one value [batch, 4] as int8: name ==> shift, multipliers, the rest of its requantisation."""
    generator = torch.Generator().manual_seed(0)

    def body(edit: fx.Program, x: torch.fx.Node) -> torch.fx.Node:
        q = edit.call(fxp.quantize.default, x, 0.05, -128, 127, torch.int8)
        parts = []
        for name, (shift, b, rest) in layers.items():
            weight = torch.randint(-127, 128, (8, 4), generator=generator, dtype=torch.int8)
            acc = edit.call(fxp.linear.default, q, edit.add_tensor(f"{name}.weight", weight), None)
            part = edit.call(fxp.requantize.default, acc, edit.add_tensor(f"{name}.b", b), shift, *rest)
            parts.append(edit.call(fxp.dequantize.default, part, 0.1))
        return parts

    return _several(body)


def _several(body: Callable[..., list[torch.fx.Node]]) -> Program:
    """A program that returns every value of `body`."""

    def first(edit: object, x: torch.fx.Node) -> torch.fx.Node:
        return body(edit, x)[0]

    program = built((1, 4), first, stage="integer")
    edit = program.edit()
    x = edit.here(program.placeholders()[0])
    for node in reversed(list(edit.graph.nodes)):
        if node.op not in ("placeholder", "output"):
            node.replace_all_uses_with(x)
            edit.graph.erase_node(node)
    output = edit.graph.output_node()
    with edit.graph.inserting_before(output):
        output.args = (tuple(body(edit, x)),)
    return edit.finish(stage="integer")


def ramp(least: int) -> Tensor:
    return multipliers(range(least, least + 8))


def test_a_smaller_shift_is_made_larger_without_rounding() -> None:
    program = beside(a=(16, ramp(300), BYTES), b=(14, ramp(90), BYTES), c=(16, multipliers([77]), BYTES))
    after = applied(FuseParallelInteger(), program)
    (requantized,) = after.graph.find_nodes(op="call_function", target=fxp.requantize.default)
    b = after.tensors[str(arguments(requantized)["b"].target)]
    assert arguments(requantized)["c"] == 16
    assert b.tolist() == [*range(300, 308), *range(360, 392, 4), *[77] * 8]


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ({"b": (10, ramp(600), BYTES)}, "its multipliers do not fit a shift of 16; it stays a layer of its own"),
        ({"b": (16, ramp(90), (0, 255, -1, torch.uint8))}, "its range, type or width of weights is that of no layer beside it"),
        ({"b": (15, ramp(90), (-32768, 32767, -1, torch.int16))}, "its range, type or width of weights is that of no layer beside it"),
    ],
    ids=["shift", "sign", "width"],
)
def test_results_that_are_stored_otherwise_stay_apart(layers: Settings, reason: str) -> None:
    program, context = beside(a=(16, ramp(300), BYTES), **layers), Context()
    with untouched(program):
        assert FuseParallelInteger().apply(program, context) is program
    assert reason in "\n".join(refusals(context))


def test_sums_that_several_read_and_shared_weights_stay_apart() -> None:
    def body(edit: object, x: torch.fx.Node) -> list[torch.fx.Node]:
        q = edit.call(fxp.quantize.default, x, 0.05, -128, 127, torch.int8)
        weight = edit.add_tensor("weight", torch.ones(8, 4, dtype=torch.int8))
        other = edit.add_tensor("other", torch.ones(8, 4, dtype=torch.int8))
        first, second, third = (edit.call(fxp.linear.default, q, each, None) for each in (weight, weight, other))
        parts = [requantize(edit, acc, ramp(90), 16, relu=False, axis=-1, name="b") for acc in (first, second, third, third)]
        return [edit.call(fxp.dequantize.default, part, 0.1) for part in parts]

    program, context = _several(body), Context()
    assert FuseParallelInteger().apply(program, context) is program
    shared = "its weight is read elsewhere too, so it would be stored twice"
    assert [refusal.split("; ")[0].split(": ")[1] for refusal in refusals(context)] == [
        *[shared] * 2,
        "its sums are not requantised once, along its outputs",
    ]


@pytest.mark.parametrize(("ratio", "fires"), [(TimeRatio(0.9, 0.85, 0.98), True), (TimeRatio(0.97, 0.9, 1.01), False)], ids=str)
def test_what_is_not_surely_faster_stays_apart(ratio: TimeRatio, fires: bool) -> None:
    class Measured:
        def ratio(self, program: Program, parent: Program) -> TimeRatio:
            return ratio

    context = Context()
    assert (FuseParallelInteger(measure=Measured()).apply(integer("decoder"), context) is not integer("decoder")) == fires
    assert len(refusals(context)) == (0 if fires else 2)
