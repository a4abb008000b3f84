"""Integers equal rational arithmetic bit for bit, and the simulation but where float32 lands across a tie."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from exact import Exact
from float_programs import BATCHES, Chain, applied, captured, measured, sample, untouched
from fxpress_ir import Program, text
from fxpress_ir.errors import PassError
from fxpress_ir.ops import arguments
from fxpress_passes import Context, PlaceQuantizers, ToInteger
from fxpress_passes.quantize.place_quantizers import Placement, place
from fxpress_passes.quantize.scales import Grid
from quantized import LayerTwice, Stages, edges, quantized, two_paths
from torch import Tensor, nn
from torch.nn import functional

_aten, _fxp = torch.ops.aten, torch.ops.fxp
Body = nn.Module | Callable[[Tensor], Tensor]


class AddScaled(nn.Module):
    """Two layers whose ranges differ by a factor of 40, added."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.small = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        with torch.no_grad():
            self.large.weight.mul_(40)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.large(x) + self.small(x)
        return result


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


LAYERS: dict[str, Callable[[], Body]] = {
    "conv": lambda: nn.Conv2d(4, 6, 3),
    "conv without bias": lambda: nn.Conv2d(4, 6, 3, bias=False),
    "conv, all options": lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(1, 2), groups=2),
    "depthwise": lambda: nn.Conv2d(4, 8, 3, padding=1, groups=4),
    "conv, relu": lambda: Chain(nn.Conv2d(4, 6, 3), nn.ReLU()),
    "conv, flatten": lambda: Chain(nn.Conv2d(4, 6, 3), nn.Flatten()),
    "linear": lambda: Chain(nn.Flatten(), nn.Linear(144, 10)),
    "linear, relu": lambda: Chain(nn.Flatten(), nn.Linear(144, 10, bias=False), nn.ReLU()),
    "relu": lambda: nn.ReLU(),
    "add of one value": lambda: lambda x: x + x,
    "add, relu": lambda: lambda x: functional.relu(x + x),
    "max_pool": lambda: nn.MaxPool2d(3, 2, 1),
    "max_pool, ceil_mode": lambda: nn.MaxPool2d(3, 2, ceil_mode=True),
    "max_pool, dilation": lambda: nn.MaxPool2d(2, 1, dilation=2),
    "avg_pool": lambda: nn.AvgPool2d(2),
    "avg_pool, padding": lambda: nn.AvgPool2d(3, 1, 1),
    "avg_pool, divisor": lambda: nn.AvgPool2d((2, 3), (1, 2), divisor_override=5),
    "avg_pool, relu": lambda: Chain(nn.AvgPool2d(3, 3), nn.ReLU()),
    "adaptive to one": lambda: nn.AdaptiveAvgPool2d(1),
    "adaptive to windows": lambda: nn.AdaptiveAvgPool2d((3, 2)),
    "mean, keepdim": lambda: lambda x: x.mean((2, 3), keepdim=True),
    "mean": lambda: lambda x: x.mean((-1, -2)),
}
NETS: dict[str, Callable[[], Body]] = {
    "add of two scales": AddScaled,
    "add of two scales, relu": lambda: Chain(AddScaled(), nn.ReLU()),
    "add of unsigned and signed": lambda: Rectified(),
    "view by the batch": lambda: lambda x: functional.max_pool2d(functional.relu(x), 2).view(x.shape[0], -1),
    "relu after max_pool": lambda: Chain(nn.Conv2d(4, 4, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)),
    "narrow and wide": lambda: Chain(nn.Conv2d(4, 2, 1), nn.ReLU(), nn.Conv2d(2, 9, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(9, 3, 2)),
}


@lru_cache
def _stages(name: str, weight_bits: int = 8) -> Stages:
    torch.manual_seed(0)
    body = {**LAYERS, **NETS}[name]()
    program = captured(Chain(body) if isinstance(body, nn.Module) else body, 1, 4, 6, 6)
    return quantized(program, weight_bits=weight_bits)


def _inputs(program: Program, batch: int) -> Tensor:
    """Inputs of up to twice the calibrated range, so that values saturate."""
    (x,) = sample(program, batch, seed=50)
    return 2 * x


def _check_exact(stages: Stages) -> None:
    for batch in BATCHES:
        x = _inputs(stages.float, batch)
        exact = Exact(stages.simulated, x)
        found = edges(stages, x)
        assert [edge.site for edge in found] == list(exact.edges)
        for edge in found:
            assert np.array_equal(edge.integer.numpy(), exact.edges[edge.site]), f"{edge.site} at batch {batch}"
            assert len(np.unique(edge.integer.numpy())) > 1
        sites = {edge.site: edge for edge in found}
        for node, before, after in zip(stages.simulated.outputs(), stages.simulated.run(x), stages.integer.run(x), strict=True):
            site = sites.get(str(node.args[0]))
            assert after.shape == before.shape
            assert site is None or torch.equal(after, site.integer.float() * torch.tensor(site.scale, dtype=torch.float32))


@pytest.mark.parametrize("name", [*LAYERS, *NETS])
def test_every_bit_is_that_of_rational_arithmetic(name: str) -> None:
    _check_exact(_stages(name))


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_every_bit_of_a_whole_network_is_that_of_rational_arithmetic(bits: int) -> None:
    _check_exact(quantized(two_paths(), weight_bits=bits))


def _share(steps: Tensor) -> float:
    return float((steps != 0).double().mean())


def _allowed(name: str) -> float:
    """The share of values that may lie one step away from the simulation."""
    if "pool" in name or "mean" in name:
        return 0.15  # of four or six terms every fourth or so average is a tie
    if name in ("conv", "conv, all options", "depthwise", "linear"):
        return 0.2  # 16-bit steps are near the accumulator's, to whose whole steps the bias is rounded
    return 0.002


@pytest.mark.parametrize("name", LAYERS)
def test_one_layer_is_its_simulation_but_where_float32_crosses_a_tie(name: str) -> None:
    stages = _stages(name)
    for edge in edges(stages, _inputs(stages.float, 16)):
        assert float(edge.steps.abs().max()) <= 1
        assert _share(edge.steps) <= _allowed(name)


def test_a_whole_network_is_near_its_simulation() -> None:
    stages = quantized(two_paths())
    for edge in edges(stages, *sample(stages.float, 16, seed=50)):
        # a standalone ReLU halves the step; those of the 16-bit head are 2**8 finer than its input's
        most, share = (40, 1.0) if edge.site == "linear" else (2, 0.03)
        assert float(edge.steps.abs().max()) <= most
        assert _share(edge.steps) <= share


EXPECTED = """\
integer program(x: float32[batch, 3, 4, 4])
  %0.bias.int32 : s32[2]
  %0.weight.int8 : s8[2, 3, 3, 3]
  %conv2d.multiplier : s32[2]
  %avg_pool2d.multiplier : s32[1]
  %5.bias.int32 : s32[5]
  %5.weight.int8 : s8[5, 2]
  %linear.multiplier : s32[5]
  quantize_default = fxp.quantize(x, s, -128, 127, s8) : s8[batch, 3, 4, 4]
  conv2d_acc = fxp.conv2d(quantize_default, %0.weight.int8, %0.bias.int32, [1, 1], [1, 1, 1, 1], [1, 1], 1) : s32[batch, 2, 4, 4]
  conv2d_out = fxp.requantize(conv2d_acc, %conv2d.multiplier, 16, 0, 255, 1, u8) : u8[batch, 2, 4, 4]
  max_pool2d_out = fxp.max_pool2d(conv2d_out, [3, 3], [2, 2], [0, 0, 1, 1], [1, 1]) : u8[batch, 2, 2, 2]
  avg_pool2d_sum = fxp.sum_pool2d(max_pool2d_out, [2, 2], [2, 2], [0, 0, 0, 0]) : s32[batch, 2, 1, 1]
  avg_pool2d_out = fxp.requantize(avg_pool2d_sum, %avg_pool2d.multiplier, 16, 0, 255, 1, u8) : u8[batch, 2, 1, 1]
  flatten_out = aten.flatten.using_ints(avg_pool2d_out, 1) : u8[batch, 2]
  linear_acc = fxp.linear(flatten_out, %5.weight.int8, %5.bias.int32) : s32[batch, 5]
  linear_out = fxp.requantize(linear_acc, %linear.multiplier, 15, -32768, 32767, -1, s32) : s32[batch, 5]
  dequantize_default = fxp.dequantize(linear_out, s) : f32[batch, 5]
  return dequantize_default"""


def test_before_and_expected() -> None:
    layers = (nn.Conv2d(3, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(2, 5))
    program = captured(Chain(*layers), 1, 3, 4, 4)
    simulated = PlaceQuantizers().apply(program, measured(program))
    integer = applied(ToInteger(), simulated)
    assert integer.stage == "integer"
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


def test_a_shared_weight_becomes_integers_for_each_of_its_readers() -> None:
    stages = quantized(captured(LayerTwice(), 1, 4))
    assert {"layer.weight.int8", "layer.weight.int8_1"} <= stages.integer.tensors.keys()
    _check_exact(stages)


@pytest.mark.parametrize("name", ["add of one value", "add of two scales", "add of unsigned and signed"])
def test_both_multipliers_of_an_add_share_a_shift_of_at_most_15(name: str) -> None:
    (node,) = [node for node in _stages(name).integer.graph.nodes if node.target is _fxp.add.default]
    named = arguments(node)
    assert 2**14 <= max(named["bx"], named["by"]) < 2**15 or named["c"] == 15
    assert min(named["bx"], named["by"]) >= 1
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


def _without(plan: Placement, name: str) -> Placement:
    activations = {site: grid for site, grid in plan.activations.items() if site != name}
    return Placement(activations, {layer: snapped for layer, snapped in plan.weights.items() if layer != name})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plan: _scaled(plan, "relu", 1.001), "to-integer, node conv2d: its scales are not snapped to dyadics; snap scales again"),
        (lambda plan: _scaled(plan, "relu_1", 1.001), "to-integer, node relu_1: its scales are not snapped to dyadics; snap scales again"),
        (lambda plan: _without(plan, "x"), "to-integer, node conv2d: reads x unquantised; quantise it there"),
        (lambda plan: _without(plan, "conv2d_3"), "to-integer, node add_1: reads conv2d_3 unquantised; quantise it there"),
        (lambda plan: _without(plan, "conv2d"), "to-integer, node conv2d: its weight stem.weight is not quantised; quantise it"),
        (
            lambda plan: replace(plan, activations={**plan.activations, "max_pool2d": Grid(0.1, 0, 255)}),
            "to-integer, node max_pool2d: a maximum cannot be quantised anew; place quantisers with place-quantizers",
        ),
    ],
)
def test_a_plan_that_has_no_integer_form_is_an_error(change: Callable[[Placement], Placement], message: str) -> None:
    simulated = place(two_paths(), change(_plan()))
    with untouched(simulated), pytest.raises(PassError) as caught:
        ToInteger().apply(simulated, Context())
    assert str(caught.value).startswith(message)


def test_scales_may_be_halved_because_they_stay_dyadic() -> None:
    """What stands between the two passes may change scales, as long as it snaps them."""
    plan = _scaled(_plan(), "linear", 0.5)
    stages = Stages(two_paths(), simulated := place(two_paths(), plan), ToInteger().apply(simulated, Context()))
    _check_exact(stages)


def test_weights_may_be_trained_between_the_two_passes() -> None:
    simulated = PlaceQuantizers().apply(two_paths(), measured(two_paths()))
    edit = simulated.edit()
    edit.tensors["twice.weight"] = torch.randn(4, 4, 3, 3) / 4
    trained = edit.finish()
    _check_exact(Stages(two_paths(), trained, ToInteger().apply(trained, Context())))


def test_the_network_of_the_tests_uses_every_kind() -> None:
    targets = {node.target for node in quantized(two_paths()).integer.graph.nodes if node.op == "call_function"}
    wanted = {_fxp.conv2d.default, _fxp.linear.default, _fxp.add.default, _fxp.requantize.default, _fxp.max_pool2d.default}
    assert {*wanted, _fxp.sum_pool2d.default, _aten.flatten.using_ints} <= targets
