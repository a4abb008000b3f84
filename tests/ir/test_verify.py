"""Each rule of each stage catches a program that breaks it and nothing before it; unbroken programs pass."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from fxpress_ir import Edit, Program, capture, verify, violations
from fxpress_ir.errors import VerifyError
from fxpress_ir.verify import RULES
from logic import comparing, joining
from support import aten, attending_net, built, fxp, moving_net, multipliers, residual_net
from torch import Tensor, fx, nn

S8, U8, S32, F32 = torch.int8, torch.uint8, torch.int32, torch.float32


def affine() -> Program:
    """A float program: relu of a linear layer."""
    return capture(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), (torch.zeros(2, 3),), dynamic_shapes=({0: torch.export.Dim("batch")},))


def changed(change: Callable[[Edit], Any], program: Program | None = None) -> Program:
    """A program changed behind the back of `Edit.finish`, which would refuse or repair some of these changes."""
    program = program or affine()
    edit = program.edit()
    change(edit)
    return Program(edit.graph, edit.tensors, program.inputs, program.stage)


def _first(edit: Edit, op: str = "call_function") -> fx.Node:
    return next(node for node in edit.graph.nodes if node.op == op)


def _retarget(edit: Edit, op: str, target: Any) -> None:
    node = next(node for node in edit.graph.nodes if node.target is aten.relu.default)
    node.op, node.target = op, target


def float_of(body: Callable[[Edit, fx.Node], fx.Node], stage: str) -> Program:
    return built((2, 3), body, stage=stage)


def faked(scale: Any = 0.1, qmin: int = -128, qmax: int = 127) -> Program:
    return float_of(lambda edit, x: edit.call(fxp.fake_quantize.default, x, scale, qmin, qmax), "simulated")


def faked_channels(scales: Tensor) -> Program:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        return edit.call(fxp.fake_quantize_channels.default, x, edit.add_tensor("scales", scales), 1, -127, 127)

    return float_of(body, "simulated")


def in_steps(taken: float | None, given: float | None = None) -> Program:
    """An integer program from s8 to s8 whose ends have these scales."""
    program = on_bytes(lambda edit, x: edit.call(aten.clone.default, x), S8)
    (spec,) = program.inputs
    return Program(program.graph, program.tensors, (replace(spec, scale=taken),), "integer", output_scales=(given,))


def stepping(program: Program, scales: tuple[float | None, ...]) -> Program:
    return Program(program.graph, program.tensors, program.inputs, program.stage, (), program.islands, scales)


def computed_scale() -> Program:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        scales = edit.call(aten.abs.default, edit.add_tensor("scales", torch.ones(3)))
        return edit.call(fxp.fake_quantize_channels.default, x, scales, 1, -127, 127)

    return float_of(body, "simulated")


def on_bytes(body: Callable[[Edit, fx.Node], fx.Node], dtype: torch.dtype = U8) -> Program:
    """An integer program on a tensor [batch, 2, 4, 4] of `dtype`."""
    return built((1, 2, 4, 4), body, dtype=dtype)


def on_ids(body: Callable[[Edit, fx.Node], fx.Node]) -> Program:
    """An integer program on numbers of rows [batch, 3]."""
    return built((1, 3), body, dtype=torch.int64)


def looked_up(edit: Edit, ids: fx.Node, table: torch.dtype) -> fx.Node:
    return edit.call(aten.embedding.default, edit.add_tensor("rows", torch.ones(5, 2, dtype=table)), ids)


def convolved(
    *, x: torch.dtype = U8, weight: torch.dtype = S8, fill: int = 1, low: int = 0, bias: Tensor | None = None, outputs: int = 1
) -> Program:
    def body(edit: Edit, node: fx.Node) -> fx.Node:
        values = torch.full((outputs, 2, 3, 3), fill, dtype=weight)
        values[0, 0, 0, 0] = low or fill
        bias_node = None if bias is None else edit.add_tensor("bias", bias)
        return edit.call(fxp.conv2d.default, node, edit.add_tensor("weight", values), bias_node, [1, 1], [1] * 4, [1, 1], 1)

    return on_bytes(body, x)


def rescaled(
    b: int = 100,
    c: int = 8,
    qmin: int = -128,
    qmax: int = 127,
    dtype: torch.dtype = S8,
    *,
    x: torch.dtype = S32,
    multiplier: torch.dtype = S32,
) -> Program:
    def body(edit: Edit, node: fx.Node) -> fx.Node:
        factors = edit.add_tensor("b", torch.tensor([b], dtype=multiplier))
        return edit.call(fxp.requantize.default, node, factors, c, qmin, qmax, 1, dtype)

    return on_bytes(body, x)


def added(bx: int = 100, by: int = 100, c: int = 8, qmax: int = 255, *, x: torch.dtype = U8) -> Program:
    return on_bytes(lambda edit, node: edit.call(fxp.add.default, node, node, bx, by, c, 0, qmax, U8), x)


def quantized(scale: float = 0.1, qmin: int = -128, qmax: int = 127, dtype: torch.dtype = S8) -> Program:
    return built((1, 3), lambda edit, x: edit.call(fxp.quantize.default, x, scale, qmin, qmax, dtype))


def with_operand(name: str) -> Program:
    """An operand that has to be a constant is computed instead."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        def given(operand: str, values: Tensor) -> fx.Node:
            node = edit.add_tensor(operand, values)
            return edit.call(aten.clone.default, node) if operand == name else node

        weight, bias = given("weight", torch.ones(1, 2, 1, 1, dtype=S8)), given("bias", multipliers([0]))
        acc = edit.call(fxp.conv2d.default, x, weight, bias, [1, 1], [0] * 4, [1, 1], 1)
        return edit.call(fxp.requantize.default, acc, given("b", multipliers([100])), 8, 0, 255, 1, U8)

    return on_bytes(body)


def float_tensor() -> Program:
    return on_bytes(lambda edit, x: edit.call(aten.clone.default, edit.add_tensor("table", torch.ones(3))))


def between(*targets: Any) -> Program:
    """quantize -> dequantize with operators before, between or after."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        q = edit.call(fxp.quantize.default, x, 0.1, -128, 127, S8)
        for target in targets:
            q = edit.call(target, q, *([0.1] if target is fxp.dequantize.default else []))
        return q

    return built((1, 3), body)


def float_tensor_in_mixed() -> Program:
    def copied(edit: Edit, x: fx.Node) -> fx.Node:
        return edit.call(fxp.dequantize.default, edit.call(fxp.quantize.default, edit.add_tensor("w", torch.ones(3)), 1.0, 0, 9, U8), 1.0)

    return mixed(copied, islands=())


def twice_negated_size() -> Program:
    """Arithmetic on sizes that float programs may hold and the integer backends do not know."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        size = edit.call(operator.neg, edit.call(operator.neg, edit.call(aten.sym_size.int, x, 0)))
        return edit.call(aten.view.default, x, [size, 32])

    return on_bytes(body)


def unquantized() -> Program:
    return built((1, 3), lambda edit, x: edit.call(aten.clone.default, x))


def large_window() -> Program:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        return edit.call(fxp.sum_pool2d.default, x, [4096, 4096], [1, 1], [0] * 4)

    return built((1, 1, 4096, 4096), body, dtype=U8)


def mixed(change: Callable[[Edit, fx.Node], fx.Node] | None = None, *, islands: tuple[str, ...] = ("island",), c: int = 8) -> Program:
    """quantize -> requantize -> dequantize -> sigmoid, the island -> `change`."""
    program = built((1, 3), lambda edit, x: edit.call(aten.clone.default, x), stage="float")
    edit = program.edit()
    old = edit.here(program.outputs()[0])
    with edit.graph.inserting_before(old):
        q = edit.call(fxp.quantize.default, edit.here(program.placeholders()[0]), 0.1, -128, 127, S8)
        q = edit.call(fxp.requantize.default, q, edit.add_tensor("b", multipliers([100])), c, -128, 127, 1, S8)
        island = edit.call(aten.sigmoid.default, edit.call(fxp.dequantize.default, q, 0.1), name="island")
        edit.replace(old, island if change is None else change(edit, island))
    return edit.finish(stage="mixed", islands=islands)


@dataclass(frozen=True)
class Broken:
    """A program of `stage` that breaks `rule`, and words of the reason."""

    stage: str
    rule: str
    program: Callable[[], Program]
    reason: str


def _always(stage: str, program: Callable[[], Program]) -> list[Broken]:
    """What no stage may hold."""
    cases: list[tuple[str, Callable[[Edit], Any], str]] = [
        ("graph_is_flat", lambda edit: setattr(edit.graph.output_node(), "args", (edit.graph.output_node().args[0][0],)), "flat tuple"),
        ("graph_is_flat", lambda edit: setattr(edit.graph.output_node(), "args", ((3,),)), "flat tuple"),
        ("tensors_match", lambda edit: edit.tensors.popitem(), "is missing"),
        ("tensors_match", lambda edit: edit.tensors.update({[*edit.tensors][-1]: torch.zeros(9, 9)}), "shape or dtype differ"),
        ("tensors_match", lambda edit: _first(edit).meta.pop("val"), "never propagated"),
        ("tensors_match", lambda edit: _first(edit, "get_attr").meta.pop("val"), "never propagated"),
    ]
    return [Broken(stage, rule, lambda change=change: changed(change, program()), reason) for rule, change, reason in cases]


BROKEN = [
    *_always("float", affine),
    *_always("simulated", lambda: faked_channels(torch.ones(3))),
    *_always("integer", convolved),
    Broken("float", "graph_is_flat", lambda: changed(lambda edit: _retarget(edit, "call_method", "relu")), "call_method"),
    Broken("float", "graph_is_flat", lambda: changed(lambda edit: _retarget(edit, "call_module", "relu")), "call_module"),
    Broken(
        "float", "graph_is_flat", lambda: changed(lambda edit: _retarget(edit, "call_function", torch.relu)), "not an operator overload"
    ),
    Broken("float", "graph_is_flat", lambda: changed(lambda edit: _retarget(edit, "call_function", aten.relu_.default)), "writes to its"),
    Broken("float", "no_fxp_operators", lambda: float_of(lambda e, x: e.call(fxp.fake_quantize.default, x, 0.1, 0, 255), "float"), "fxp"),
    Broken("float", "no_fxp_operators", lambda: float_of(lambda e, x: e.call(fxp.quantize.default, x, 0.1, 0, 255, U8), "float"), "fxp"),
    Broken(
        "simulated",
        "only_fake_quantizers",
        lambda: float_of(lambda e, x: e.call(fxp.quantize.default, x, 0.1, 0, 255, U8), "simulated"),
        "only fake quantisers",
    ),
    *[Broken("simulated", "scales_and_ranges", lambda s=s: faked(s), "positive") for s in (0.0, -1.0, math.nan, math.inf, 1e-60, 1e60)],
    *[Broken("simulated", "scales_and_ranges", lambda r=r: faked(0.1, *r), r"\] is empty") for r in ((5, 5), (7, -7))],
    Broken("simulated", "scales_and_ranges", lambda: faked_channels(torch.tensor([1.0, 0.0, 1.0])), "positive"),
    Broken("simulated", "scales_and_ranges", lambda: faked_channels(torch.tensor([1.0, math.nan, 1.0])), "positive"),
    Broken("simulated", "scales_and_ranges", computed_scale, "not a constant"),
    *[Broken("integer", "ends_in_steps", lambda s=s: in_steps(s), "not positive and finite") for s in (0.0, -0.1, math.nan, 1e60)],
    Broken("integer", "ends_in_steps", lambda: in_steps(None, 0.0), "not positive and finite"),
    Broken("mixed", "ends_in_steps", lambda: stepping(mixed(), (0.1,)), r"torch.float32 in steps of 0\.1"),
    *[Broken("integer", "scales_and_ranges", lambda s=s: quantized(s), "positive") for s in (0.0, -0.1, math.nan, math.inf, 1e-60)],
    Broken("integer", "scales_and_ranges", lambda: quantized(0.1, 5, 5), r"\[5, 5\] is empty"),
    Broken("integer", "scales_and_ranges", lambda: rescaled(qmin=9, qmax=2), r"\[9, 2\] is empty"),
    *_always("mixed", mixed),
    Broken("mixed", "floats_in_islands", lambda: mixed(lambda e, x: e.call(aten.tanh.default, x)), "aten.tanh"),
    Broken("mixed", "floats_in_islands", lambda: mixed(lambda e, x: e.call(aten.clone.default, x)), "outside an island"),
    Broken("mixed", "floats_in_islands", lambda: mixed(islands=("island", "atlantis")), "no such island"),
    Broken("mixed", "floats_in_islands", float_tensor_in_mixed, "reads a float tensor"),
    Broken("mixed", "scales_and_ranges", lambda: mixed(lambda e, x: e.call(fxp.quantize.default, x, -1.0, 0, 255, U8)), "positive"),
    Broken("mixed", "operand_types", lambda: mixed(lambda e, x: e.call(fxp.quantize.default, x, 1.0, 0, 255, torch.int64)), "dtype is"),
    Broken("mixed", "everything_fits", lambda: mixed(c=17), "shift"),
    Broken(
        "mixed",
        "lookups_in_constants",
        lambda: mixed(lambda e, x: looked_up(e, e.add_tensor("ids", torch.arange(3)), S32), islands=()),
        "its table is torch.int32",
    ),
    Broken("integer", "lookups_in_constants", lambda: on_ids(lambda e, x: looked_up(e, x, torch.int64)), "its table is torch.int64"),
    Broken("integer", "lookups_in_constants", lambda: on_ids(lambda e, x: e.call(aten.embedding.default, x, x)), "not a constant"),
    Broken(
        "mixed",
        "logic_of_integers",
        lambda: mixed(lambda e, x: e.call(aten.logical_not.default, e.add_tensor("ids", torch.arange(3))), islands=()),
        "ids is torch.int64, expected torch.bool",
    ),
    Broken("integer", "logic_of_integers", lambda: on_ids(lambda e, x: e.call(aten.logical_and.default, x, x)), "expected torch.bool"),
    Broken("integer", "logic_of_integers", lambda: on_ids(lambda e, x: e.call(aten.lt.Scalar, x, 0.5)), "int64 with 0.5"),
    Broken("integer", "logic_of_integers", lambda: on_bytes(lambda e, x: e.call(aten.eq.Scalar, x, 256)), "uint8 with 256"),
    Broken("integer", "logic_of_integers", lambda: on_ids(lambda e, x: e.call(aten.ne.Scalar, e.call(aten.ne.Scalar, x, 0), 0)), "bool"),
    Broken("integer", "known_integer_operators", lambda: on_ids(lambda e, x: e.call(aten.eq.Tensor, x, x)), "aten.eq.Tensor"),
    Broken("integer", "integer_between_borders", lambda: built((1, 3), lambda e, x: e.call(aten.gt.Scalar, x, 0)), "without quantising"),
    Broken("integer", "known_integer_operators", lambda: on_bytes(lambda e, x: e.call(aten.div.Tensor, x, x)), "aten.div"),
    Broken("integer", "known_integer_operators", lambda: on_bytes(lambda e, x: e.call(aten.floor_divide.default, x, x)), "floor_divide"),
    Broken("integer", "known_integer_operators", lambda: on_bytes(lambda e, x: e.call(aten.add.Tensor, x, x)), "aten.add"),
    Broken("integer", "known_integer_operators", lambda: between(fxp.dequantize.default, aten.relu.default), "aten.relu"),
    Broken("integer", "known_integer_operators", lambda: between(aten.relu.default), "aten.relu"),
    Broken("integer", "known_integer_operators", twice_negated_size, "neg"),
    Broken("integer", "integer_between_borders", float_tensor, "a float tensor"),
    Broken("integer", "integer_between_borders", unquantized, "without quantising"),
    Broken("integer", "integer_between_borders", lambda: between(fxp.dequantize.default, aten.clone.default), "dequantised"),
    Broken("integer", "operand_types", lambda: convolved(x=S32), "x is torch.int32"),
    Broken("integer", "operand_types", lambda: convolved(weight=U8), "weight is torch.uint8"),
    Broken("integer", "operand_types", lambda: convolved(bias=torch.zeros(1, dtype=torch.int64)), "bias is torch.int64"),
    Broken("integer", "operand_types", lambda: convolved(low=-128), "-128"),
    Broken("integer", "operand_types", lambda: rescaled(x=torch.int64), "x is torch.int64"),
    Broken("integer", "operand_types", lambda: rescaled(multiplier=torch.int64), "b is torch.int64"),
    Broken("integer", "operand_types", lambda: rescaled(dtype=torch.bool), "dtype is torch.bool"),
    Broken("integer", "operand_types", lambda: rescaled(dtype=torch.int64), "dtype is torch.int64"),
    Broken("integer", "operand_types", lambda: added(x=S32), "x is torch.int32"),
    Broken("integer", "operand_types", lambda: on_bytes(lambda e, x: e.call(fxp.quantize.default, x, 0.1, 0, 9, U8)), "x is torch.uint8"),
    *[Broken("integer", "operand_types", lambda n=n: with_operand(n), f"its {n} is not a constant") for n in ("weight", "bias", "b")],
    Broken("integer", "everything_fits", lambda: convolved(bias=multipliers([2**31 - 18 * 255])), "accumulator"),
    Broken("integer", "everything_fits", lambda: convolved(bias=multipliers([-(2**31)])), "accumulator"),
    Broken("integer", "everything_fits", large_window, "window sum"),
    *[Broken("integer", "everything_fits", lambda c=c: rescaled(c=c), "shift reaches") for c in (-1, 0, 17, 31, 32, 63)],
    *[Broken("integer", "everything_fits", lambda b=b: rescaled(b=b), "multiplier reaches") for b in (-5, 0, 2**15)],
    *[Broken("integer", "everything_fits", lambda c=c: added(c=c), "shift reaches") for c in (0, 17, 31, 32)],
    *[Broken("integer", "everything_fits", lambda b=b: added(bx=b), "multiplier .* reaches") for b in (0, 2**15)],
    Broken("integer", "everything_fits", lambda: rescaled(qmin=-(2**20), qmax=2**20, c=16, dtype=S32), "product and rounding term"),
    Broken("integer", "everything_fits", lambda: rescaled(qmin=-(2**30), qmax=2**30, b=1, c=16, dtype=S32), "pre-clip bounds"),
    Broken("integer", "everything_fits", lambda: rescaled(qmin=-129), "result reaches"),
    Broken("integer", "everything_fits", lambda: rescaled(qmax=1 << 15, dtype=torch.int16), "result reaches"),
    Broken("integer", "everything_fits", lambda: added(qmax=256), "result reaches"),
    Broken("integer", "everything_fits", lambda: rescaled(qmax=1 << 15, dtype=torch.int16), "result reaches"),
    Broken("integer", "everything_fits", lambda: quantized(qmax=128), "quantised value reaches"),
    Broken("integer", "everything_fits", lambda: on_bytes(lambda e, x: e.call(aten.clone.default, x), torch.uint16), "no proof rule"),
]


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: f"{case.stage}-{case.rule}-{case.reason}")
def test_a_broken_program_is_caught_by_the_rule_it_breaks(case: Broken) -> None:
    program = case.program()
    assert program.stage == case.stage
    found = violations(program)
    assert {violation.rule for violation in found} == {case.rule}
    with pytest.raises(VerifyError, match=case.reason) as caught:
        verify(program)
    assert case.rule in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(caught.value.__notes__) == len(found)


def test_every_rule_of_every_stage_has_a_program_that_breaks_it() -> None:
    assert {(stage, rule.__name__) for stage, rules in RULES.items() for rule in rules} == {(case.stage, case.rule) for case in BROKEN}


UNBROKEN = {
    "integers in steps at both ends": lambda: in_steps(0.1, 1e-30),
    "float": affine,
    "simulated": lambda: faked_channels(torch.tensor([0.1, 1e-30, 1e30])),
    "integer": residual_net,
    "tables and moves": moving_net,
    "attention": attending_net,
    "mixed": mixed,
    "the longest accumulator": lambda: convolved(bias=multipliers([2**31 - 1 - 18 * 255])),
    "the largest multiplier and shift": lambda: rescaled(b=2**15 - 1, c=16),
    "the smallest multiplier and shift": lambda: rescaled(b=1, c=1),
    "a 16-bit result": lambda: rescaled(qmin=-32768, qmax=32767, c=15, dtype=S32),
    "an input that is returned": lambda: built((1, 3), lambda edit, x: x),
    "no weight of -128": lambda: convolved(low=-127),
    "rows of a table by number": lambda: on_ids(lambda e, x: looked_up(e, x, S8)),
    "comparisons and logic": lambda: comparing(2),
    "booleans of a table": joining,
    "a sum of bytes": lambda: added(2**15 - 1, 2**15 - 1, 16),
}


@pytest.mark.parametrize("name", UNBROKEN)
def test_an_unbroken_program_passes(name: str) -> None:
    program = UNBROKEN[name]()
    certificate = verify(program)
    assert (certificate.stage, certificate.program_hash) == (program.stage, program.hash)
    assert certificate.rules == tuple(rule.__name__ for rule in RULES[program.stage])
    assert violations(program) == []
    assert all(fact["least"] <= fact["low"] and fact["high"] <= fact["most"] for fact in certificate.facts)
