"""Integers equal rational arithmetic bit for bit, and the simulation but where float32 lands across a tie."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch
from blocks import ready, seen
from float_programs import BATCHES, Chain, applied, captured, measured, sample, untouched
from fxpress_ir import Program, text, verify
from fxpress_ir.errors import PassError
from fxpress_ir.ops import arguments
from fxpress_passes import Context, PlaceQuantizers, ToInteger
from fxpress_passes.contract import difference
from fxpress_passes.pipeline import Pipeline
from fxpress_passes.quantize.place_quantizers import Placement, place
from fxpress_passes.quantize.scales import Grid
from quantized import LayerTwice, Stages, check_exact, edges, quantized, targets, two_paths, values, wide
from torch import Tensor, nn
from torch.nn import functional

_aten, _fxp = torch.ops.aten, torch.ops.fxp
FAKE = _fxp.fake_quantize.default
Body = nn.Module | Callable[[Tensor], Any]


class Rectified(nn.Module):
    """A rectified value and a signed one a tenth as large, added: the larger multiplier is just below a half."""

    def __init__(self) -> None:
        super().__init__()
        self.small = nn.Conv2d(4, 4, 1)
        with torch.no_grad():
            self.small.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = functional.relu(x) + self.small(x)
        return result


class Constant(nn.Module):
    """A value and a whole image of constants, put together by `body`."""

    def __init__(self, body: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.image = body, nn.Parameter(torch.randn(4, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x, self.image)


LAYERS: dict[str, Callable[[], Body]] = {
    "conv": lambda: nn.Conv2d(4, 6, 3),
    "conv without bias": lambda: nn.Conv2d(4, 6, 3, bias=False),
    "conv, all options": lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2), groups=2),
    "depthwise": lambda: nn.Conv2d(4, 8, 3, padding=1, groups=4),
    "conv, relu": lambda: Chain(nn.Conv2d(4, 6, 3), nn.ReLU()),
    "conv, relu6": lambda: Chain(nn.Conv2d(4, 6, 3), nn.Hardtanh(-0.3, 0.4)),
    "conv, flatten": lambda: Chain(nn.Conv2d(4, 6, 3), nn.Flatten()),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2),
    "linear": lambda: Chain(nn.Flatten(), nn.Linear(144, 10)),
    "linear, relu": lambda: Chain(nn.Flatten(), nn.Linear(144, 10, bias=False), nn.ReLU()),
    "relu": lambda: nn.ReLU(),
    "silu": lambda: nn.SiLU(),
    "batch norm": lambda: nn.BatchNorm2d(4),
    "add": lambda: lambda x: x + x.transpose(2, 3),
    "sub, relu": lambda: lambda x: functional.relu(x - x.transpose(2, 3)),
    "product": lambda: lambda x: x * x.transpose(2, 3),
    "max_pool": lambda: nn.MaxPool2d(3, 2, 1),
    "avg_pool": lambda: nn.AvgPool2d(3, 1, 1),
    "avg_pool, relu": lambda: Chain(nn.AvgPool2d(3, 3), nn.ReLU()),
    "mean": lambda: lambda x: x.mean((-1, -2)),
    "bilinear": lambda: nn.Upsample(scale_factor=3, mode="bilinear"),
    "concat": lambda: lambda x: torch.cat([functional.relu(x), x], 1),
    "sum with a constant": lambda: Constant(lambda x, c: x + c),
    "constant, difference, relu": lambda: Constant(lambda x, c: functional.relu(c - x)),
    "product with a constant": lambda: Constant(lambda x, c: x * c),
    "product of two matrices": lambda: lambda x: x @ x.transpose(2, 3),
}
NETS: dict[str, Callable[[], Body]] = {
    "add of unsigned and signed": Rectified,
    "view by the batch": lambda: lambda x: functional.max_pool2d(functional.relu(x), 2).view(x.shape[0], -1),
    "view of twice the batch": lambda: lambda x: functional.relu(x).view(x.shape[0] * 2, -1),
    "relu after max_pool": lambda: Chain(nn.Conv2d(4, 4, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)),
    "narrow and wide": lambda: Chain(nn.Conv2d(4, 2, 1), nn.ReLU(), nn.Conv2d(2, 9, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(9, 3, 2)),
}


@lru_cache
def _stages(name: str, bits: int = 8) -> Stages:
    torch.manual_seed(0)
    body = {**LAYERS, **NETS}[name]()
    program = captured(Chain(body) if isinstance(body, nn.Module) else body, 1, 4, 6, 6)
    return quantized(program, weight_bits=bits, edge_bits=bits)


@pytest.mark.parametrize("name", [*LAYERS, *NETS])
def test_every_bit_is_that_of_rational_arithmetic(name: str) -> None:
    stages = _stages(name)
    assert stages.integer.stage == "integer"
    check_exact(stages)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_every_bit_of_a_whole_network_is_that_of_rational_arithmetic(bits: int) -> None:
    check_exact(quantized(two_paths(), weight_bits=bits))


def _share(steps: Tensor) -> float:
    return float((steps != 0).double().mean())


def _allowed(name: str) -> float:
    """The share of values that may lie one step away from the simulation."""
    if "pool" in name or name in ("mean", "bilinear"):
        return 0.15  # of four or six terms every fourth or so average is a tie
    if "constant" in name:
        return 0.01  # the smaller of two multipliers of a sum is rounded to 15 bits
    if name in ("conv", "conv, all options", "depthwise", "linear", "transposed"):
        return 0.2  # 16-bit steps are near the accumulator's, to whose whole steps the bias is rounded
    return 0.002


@pytest.mark.parametrize("name", LAYERS)
def test_one_layer_is_its_simulation_but_where_float32_crosses_a_tie(name: str) -> None:
    stages = _stages(name)
    for edge in edges(stages, wide(stages.float, 16)):
        assert float(edge.steps.abs().max()) <= 1
        assert _share(edge.steps) <= _allowed(name)


def test_a_whole_network_is_near_its_simulation() -> None:
    stages = quantized(two_paths())
    for edge in edges(stages, *sample(stages.float, 16, seed=50)):
        # the steps of the 16-bit head are 2**8 finer than its input's
        most, share = (40, 1.0) if edge.site == "linear" else (2, 0.03)
        assert float(edge.steps.abs().max()) <= most
        assert _share(edge.steps) <= share


EXPECTED = """\
integer program(x: float32[batch, 3, 4, 4])
  %0.bias.int32 : s32[2]
  %0.weight.int8 : s8[2, 3, 3, 3]
  %conv2d.multiplier : s32[2]
  %avg_pool2d.multiplier : s32[1]
  %silu.table : u8[1, 256]
  %6.bias.int32 : s32[5]
  %6.weight.int8 : s8[5, 2]
  %linear.multiplier : s32[5]
  quantize_default = fxp.quantize(x, s, -128, 127, s8) : s8[batch, 3, 4, 4]
  conv2d_acc = fxp.conv2d(quantize_default, %0.weight.int8, %0.bias.int32, [1, 1], [1, 1, 1, 1], [1, 1], 1) : s32[batch, 2, 4, 4]
  conv2d_out = fxp.requantize(conv2d_acc, %conv2d.multiplier, 16, 0, 255, 1, u8) : u8[batch, 2, 4, 4]
  max_pool2d_out = fxp.max_pool2d(conv2d_out, [3, 3], [2, 2], [0, 0, 1, 1], [1, 1]) : u8[batch, 2, 2, 2]
  avg_pool2d_sum = fxp.sum_pool2d(max_pool2d_out, [2, 2], [2, 2], [0, 0, 0, 0]) : s32[batch, 2, 1, 1]
  avg_pool2d_out = fxp.requantize(avg_pool2d_sum, %avg_pool2d.multiplier, 16, 0, 255, 1, u8) : u8[batch, 2, 1, 1]
  silu_out = fxp.lut(avg_pool2d_out, %silu.table, 1) : u8[batch, 2, 1, 1]
  flatten_out = aten.flatten.using_ints(silu_out, 1) : u8[batch, 2]
  linear_acc = fxp.linear(flatten_out, %6.weight.int8, %6.bias.int32) : s32[batch, 5]
  linear_out = fxp.requantize(linear_acc, %linear.multiplier, 15, -32768, 32767, -1, s16) : s16[batch, 5]
  dequantize_default = fxp.dequantize(linear_out, s) : f32[batch, 5]
  return dequantize_default"""


def test_before_and_expected() -> None:
    layers = (nn.Conv2d(3, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(2), nn.SiLU(), nn.Flatten())
    program = captured(Chain(*layers, nn.Linear(2, 5)), 1, 3, 4, 4)
    simulated = PlaceQuantizers().apply(program, measured(program))
    integer = applied(ToInteger(), simulated)
    assert integer.stage == "integer"
    assert integer.islands == ()
    assert re.sub(r"\b\d\.\d+(e-\d+)?\b", "s", text(integer)) == EXPECTED


def test_nothing_is_a_float_between_the_borders() -> None:
    program = quantized(two_paths()).integer
    assert {tensor.dtype for tensor in program.tensors.values()} == {torch.int8, torch.int32}
    floats = [node.name for node in program.graph.nodes if node.op == "call_function" and node.meta["val"].is_floating_point()]
    assert floats == ["dequantize_default"]


@pytest.mark.parametrize(("bits", "most"), [(8, 127), (4, 7), (2, 1)])
def test_weights_fill_their_bits(bits: int, most: int) -> None:
    weight = _stages("conv", bits).integer.tensors["0.weight.int8"]
    assert int(weight.abs().max()) == most


def test_a_value_of_two_outputs_leaves_twice_and_an_input_leaves_quantized() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            y = self.layer(x)
            return y, x, y

    program = captured(Twice(), 1, 4)
    stages = quantized(program)
    (x,) = sample(program, 3)
    first, passed, second = stages.integer.run(x)
    assert torch.equal(first, second)
    assert torch.equal(passed, stages.simulated.run(x)[1])


def test_a_shared_weight_becomes_integers_once_for_all_of_its_readers() -> None:
    stages = quantized(captured(LayerTwice(), 1, 4))
    assert [name for name in stages.integer.tensors if name.startswith("layer.weight")] == ["layer.weight.int8"]
    x = sample(stages.simulated, 16)
    assert difference(stages.simulated.run(*x), stages.integer.run(*x)).sqnr > 45


@pytest.mark.parametrize("name", ["add", "sub, relu", "add of unsigned and signed"])
def test_both_multipliers_of_an_add_share_a_shift_of_at_most_15(name: str) -> None:
    (node,) = _stages(name).integer.graph.find_nodes(op="call_function", target=_fxp.add.default)
    named = arguments(node)
    assert (named["by"] < 0) == (name == "sub, relu")
    assert 2**14 <= max(named["bx"], abs(named["by"])) < 2**15 or named["c"] == 15
    assert min(named["bx"], abs(named["by"])) >= 1
    assert named["c"] <= 15


def test_a_relu_clamps_at_zero_on_a_signed_grid_too() -> None:
    plan = _plan()
    signed = replace(plan, activations={**plan.activations, "relu": replace(plan.activations["relu"], qmin=-128, qmax=127)})
    integer = ToInteger().apply(place(two_paths(), signed), Context())
    (node,) = [node for node in integer.graph.nodes if node.name == "conv2d_out"]
    assert arguments(node)["qmin"] == 0


def _plan() -> Placement:
    return PlaceQuantizers().decide(two_paths(), measured(two_paths()))


def _scaled(plan: Placement, site: str, factor: float) -> Placement:
    grid = plan.activations[site]
    return replace(plan, activations={**plan.activations, site: replace(grid, scale=grid.scale * factor)})


def _without(plan: Placement, *names: str) -> Placement:
    activations = {site: grid for site, grid in plan.activations.items() if site not in names}
    return Placement(activations, {layer: snapped for layer, snapped in plan.weights.items() if layer not in names})


UNSNAPPED = "its scales are not snapped to dyadics; snap scales again after changing them"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plan: _scaled(plan, "relu", 1.001), f"conv2d: {UNSNAPPED}"),
        (lambda plan: _scaled(plan, "adaptive_avg_pool2d", 1.001), f"adaptive_avg_pool2d: {UNSNAPPED}"),
        (lambda plan: _without(plan, "x"), "conv2d: reads x unquantised; quantise it there"),
        (lambda plan: _without(plan, "conv2d_3"), "add_1: reads conv2d_3 unquantised; quantise it there"),
        (lambda plan: _without(plan, "relu_3"), "adaptive_avg_pool2d: reads relu_3 unquantised; quantise it there"),
        (lambda plan: _without(plan, "conv2d_1"), "add: reads conv2d_1 unquantised; quantise it there"),
        (lambda plan: _without(plan, "relu"), "conv2d_1: reads max_pool2d unquantised; quantise it there"),
        (lambda plan: _without(plan, "linear"), "linear: its result is not quantised; quantise it there"),
        (lambda plan: _without(plan, "stem", "conv2d"), "conv2d: its weight stem.weight is not quantised; quantise it"),
        (
            lambda plan: replace(plan, activations={**plan.activations, "max_pool2d": Grid(0.1, 0, 255)}),
            f"conv2d_1: {UNSNAPPED}",
        ),
    ],
)
def test_a_plan_that_has_no_integer_form_is_an_error(change: Callable[[Placement], Placement], message: str) -> None:
    """Nothing of it is computed in floats instead."""
    simulated = place(two_paths(), change(_plan()))
    with untouched(simulated), pytest.raises(PassError) as caught:
        ToInteger().apply(simulated, Context())
    assert str(caught.value) == f"to-integer, node {message}"


def test_a_moved_value_may_be_quantized_anew() -> None:
    """Then it is requantised, and what reads it is snapped to that."""
    plan = _plan()
    doubled = Grid(2 * plan.activations["relu"].scale, 0, 255)
    simulated = place(two_paths(), replace(plan, activations={**plan.activations, "max_pool2d": doubled}))
    integer = ToInteger().apply(simulated, Context())
    (node,) = [node for node in integer.graph.nodes if node.name == "max_pool2d_out_aligned"]
    named = arguments(node)
    assert integer.tensors[str(named["b"].target)].tolist() == [1 << (named["c"] - 1)]
    (x,) = sample(simulated, 3)
    found = values(integer, x)
    halves = found["max_pool2d_out"].double() / 2
    assert torch.equal(found[node.name].double(), halves.round().clamp(0, 255))
    assert difference(simulated.run(x), integer.run(x)).sqnr >= 40


class Narrowed(nn.Module):
    """A residual sum that a norm reads in 16 bits and a layer in 8."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(6, 6), nn.Linear(6, 5), nn.LayerNorm(6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x + self.first(x)
        return self.norm(y), self.second(y)


def test_a_sum_that_a_layer_reads_is_requantized_for_it() -> None:
    stages = quantized(captured(Narrowed(), 1, 4, 6), integer_only=True)
    assert targets(stages.integer) == [
        *("requantize", "linear", "requantize", "add", "requantize"),
        *("normalize", "affine", "linear", "requantize"),
    ]
    by_name = {node.name: node for node in stages.integer.graph.nodes}
    narrow = by_name["add_out_aligned"]
    assert (narrow.args[0], arguments(by_name["linear_1_acc"])["x"]) == (by_name["add_out"], narrow)
    assert arguments(by_name["layer_norm_unit"])["x"] is by_name["add_out"]
    grids = {fake.name: arguments(fake)["scale"] for fake in stages.simulated.graph.find_nodes(op="call_function", target=FAKE)}
    factor, c = stages.integer.tensors[str(arguments(narrow)["b"].target)], arguments(narrow)["c"]
    assert float(factor[0]) / 2**c == pytest.approx(grids["add_q"] / grids["add_q_q"], rel=1e-12)
    x = wide(stages.float, 5)
    found = values(stages.integer, x)
    exact = found["add_out"].double() * int(factor) / 2**c
    assert torch.equal(found["add_out_aligned"].double(), exact.round().clamp(-128, 127))


def test_a_normalised_value_is_given_gain_and_shift_for_each_of_its_grids() -> None:
    simulated = PlaceQuantizers(integer_only=True).apply(ready("post-norm"), seen("post-norm"))
    integer = applied(ToInteger(), simulated)
    units = [node for node in integer.graph.nodes if node.target is _fxp.normalize.default]
    grids = [[arguments(user)["dtype"] for user in unit.users] for unit in units]
    assert grids == [[torch.int16, torch.int8], [torch.int16]]
    assert [str(user.target) for user in units[0].users] == ["fxp.affine.default"] * 2


def test_scales_may_be_halved_because_they_stay_dyadic() -> None:
    """What stands between the two passes may change scales, as long as it snaps them."""
    plan = _scaled(_plan(), "linear", 0.5)
    stages = Stages(two_paths(), simulated := place(two_paths(), plan), ToInteger().apply(simulated, Context()))
    check_exact(stages)


def test_weights_may_be_trained_between_the_two_passes() -> None:
    simulated = PlaceQuantizers().apply(two_paths(), measured(two_paths()))
    edit = simulated.edit()
    edit.tensors["twice.weight"] = torch.randn(4, 4, 3, 3) / 4
    trained = edit.finish()
    check_exact(Stages(two_paths(), trained, ToInteger().apply(trained, Context())))


def test_the_network_of_the_tests_uses_every_kind() -> None:
    targets = {node.target for node in quantized(two_paths()).integer.graph.nodes if node.op == "call_function"}
    wanted = {_fxp.conv2d.default, _fxp.linear.default, _fxp.add.default, _fxp.requantize.default, _fxp.max_pool2d.default}
    assert {*wanted, _fxp.sum_pool2d.default, _fxp.lut.default, _aten.flatten.using_ints} <= targets


class Islands(nn.Module):
    """A convolution, what `body` makes of its result, and a linear layer where `body` takes one."""

    def __init__(self, body: Callable[[Tensor, nn.Module], Any]) -> None:
        super().__init__()
        self.layer, self.head, self.body = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(64, 5), body

    def forward(self, x: Tensor) -> Any:
        return self.body(self.layer(x), self.head)


MIXED: dict[str, tuple[Callable[[Tensor, nn.Module], Any], tuple[str, ...], float]] = {
    "at the end": (lambda x, head: head(functional.relu(x).flatten(1)).cumsum(1), ("cumsum",), 35.0),
    "in the middle": (lambda x, head: head(x.softmax(1).flatten(1)), ("softmax",), 30.0),
    "moved on": (lambda x, head: x.softmax(1).flatten(1).view(x.shape[0] * 2, -1), ("softmax", "flatten", "view"), 40.0),
    "several results": (lambda x, head: head(torch.sort(x.flatten(1), 1)[0]), ("sort", "getitem"), 25.0),
    "beside integers": (lambda x, head: functional.relu(x) + x.cumsum(1), ("cumsum",), 30.0),
    "two in a row": (lambda x, head: head(x.cumsum(1).softmax(1).flatten(1)), ("cumsum", "softmax"), 30.0),
    "two apart": (lambda x, head: head(functional.hardswish(x.cumsum(1)).softmax(1).flatten(1)), ("cumsum", "softmax"), 25.0),
    "booleans are moved and joined": (
        lambda x, head: head(torch.where((x.cumsum(1) > 0).logical_not().flatten(1), x.flatten(1), 0.0)),
        ("cumsum", "gt", "logical_not", "flatten", "where"),
        30.0,
    ),
    "integers come out": (lambda x, head: head(x.flatten(1)).argmax(1), ("argmax",), 100.0),
    "a constant that no table holds": (
        lambda x, head: functional.relu(x) * torch.linspace(0, 1, 64).reshape(4, 4, 4),
        ("linspace",),
        30.0,
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_what_has_no_integer_form_is_a_named_island(name: str) -> None:
    body, islands, floor = MIXED[name]
    program = captured(Islands(body), 1, 3, 4, 4)
    stages = quantized(program)
    assert (stages.integer.stage, stages.integer.islands) == ("mixed", islands)
    assert verify(stages.integer).stage == "mixed"
    floats = {
        node.name
        for node in stages.integer.graph.nodes
        if node.op == "call_function" and isinstance(value := node.meta["val"], Tensor) and value.is_floating_point()
    }
    assert {name for name in floats if not name.startswith("dequantize")} <= {*islands}
    for batch in BATCHES:
        x = sample(program, batch, seed=50)
        assert difference(program.run(*x), stages.integer.run(*x)).sqnr >= floor


def test_a_mixed_program_goes_through_a_pipeline_and_its_report() -> None:
    program = captured(Islands(MIXED["in the middle"][0]), 1, 3, 4, 4)
    result = Pipeline.parse("quantize-dyadic, eliminate-dead-code").run(
        program, calibration=[sample(program, 8, seed) for seed in range(4)]
    )
    assert (result.program.stage, result.program.islands) == ("mixed", ("softmax",))
    assert "left alone softmax: it is not over the last dimension; it stays in floats" in str(result.report)
    stages = [step.stage for step in result.report.steps]
    assert (set(stages[:-3]), stages[-3:]) == ({"float"}, ["simulated", "mixed", "mixed"])
    assert "float island softmax" in text(result.program)


def test_sizes_are_no_island() -> None:
    program: Program = _stages("view of twice the batch").integer
    assert [str(node.target) for node in program.graph.nodes if "mul" in str(node.target)] != []
    assert (program.stage, program.islands) == ("integer", ())
