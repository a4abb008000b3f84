"""Quantisers stand at every quantised edge and weight, where and as finely as the plan says; a plan is plain data."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from blocks import BLOCKS, example, ready, seen
from float_programs import Chain, applied, captured, measured, operators, refusals, untouched
from fxpress_ir import Program, text
from fxpress_ir.errors import CalibrationError, PassError, PipelineError, RefusalError
from fxpress_ir.ops import arguments
from fxpress_passes import Context, PlaceQuantizers, Refused
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.quantize.decision import Narrowed
from fxpress_passes.quantize.place_quantizers import Placement, place
from fxpress_passes.quantize.scales import Grid, Snapped, activation_grid
from quantized import LayerTwice, two_paths
from torch import Tensor, nn
from torch.nn import functional

_fxp = torch.ops.fxp
S8, U8, S16 = (-128, 127), (0, 255), (-(2**15), 2**15 - 1)

EXPECTED = """\
  x_q = fxp.fake_quantize(x, s, -128, 127) : f32[batch, 3, 8, 8]
  conv2d_weight_q = fxp.fake_quantize_channels(%stem.weight, %conv2d.scale, 0, -127, 127) : f32[4, 3, 3, 3]
  conv2d = aten.conv2d(x_q, conv2d_weight_q, %stem.bias, [1, 1], [1, 1]) : f32[batch, 4, 8, 8]
  relu = aten.relu(conv2d) : f32[batch, 4, 8, 8]
  relu_q = fxp.fake_quantize(relu, s, 0, 255) : f32[batch, 4, 8, 8]
  max_pool2d = aten.max_pool2d(relu_q, [2, 2]) : f32[batch, 4, 4, 4]
  conv2d_1_weight_q = fxp.fake_quantize_channels(%twice.weight, %conv2d_1.scale, 0, -127, 127) : f32[4, 4, 3, 3]
  conv2d_1 = aten.conv2d(max_pool2d, conv2d_1_weight_q, %twice.bias, [1, 1], [1, 1]) : f32[batch, 4, 4, 4]
  conv2d_1_q = fxp.fake_quantize(conv2d_1, s, -128, 127) : f32[batch, 4, 4, 4]
  relu_1 = aten.relu(conv2d_1_q) : f32[batch, 4, 4, 4]
  add = aten.add.Tensor(relu_1, conv2d_1_q) : f32[batch, 4, 4, 4]
  add_q = fxp.fake_quantize(add, s, -128, 127) : f32[batch, 4, 4, 4]
  conv2d_2_weight_q = fxp.fake_quantize_channels(%left.weight, %conv2d_2.scale, 0, -127, 127) : f32[4, 4, 3, 3]
  conv2d_2 = aten.conv2d(add_q, conv2d_2_weight_q, %left.bias, [1, 1], [1, 1]) : f32[batch, 4, 4, 4]
  relu_2 = aten.relu(conv2d_2) : f32[batch, 4, 4, 4]
  relu_2_q = fxp.fake_quantize(relu_2, s, 0, 255) : f32[batch, 4, 4, 4]
  conv2d_3_weight_q = fxp.fake_quantize_channels(%right.weight, %conv2d_3.scale, 0, -127, 127) : f32[4, 4, 1, 1]
  conv2d_3 = aten.conv2d(relu_2_q, conv2d_3_weight_q) : f32[batch, 4, 4, 4]
  conv2d_3_q = fxp.fake_quantize(conv2d_3, s, -128, 127) : f32[batch, 4, 4, 4]
  add_1 = aten.add.Tensor(conv2d_3_q, max_pool2d) : f32[batch, 4, 4, 4]
  relu_3 = aten.relu(add_1) : f32[batch, 4, 4, 4]
  relu_3_q = fxp.fake_quantize(relu_3, s, 0, 255) : f32[batch, 4, 4, 4]
  adaptive_avg_pool2d = aten.adaptive_avg_pool2d(relu_3_q, [2, 2]) : f32[batch, 4, 2, 2]
  adaptive_avg_pool2d_q = fxp.fake_quantize(adaptive_avg_pool2d, s, 0, 255) : f32[batch, 4, 2, 2]
  flatten = aten.flatten.using_ints(adaptive_avg_pool2d_q, 1) : f32[batch, 16]
  linear_weight_q = fxp.fake_quantize_channels(%head.weight, %linear.scale, 0, -127, 127) : f32[5, 16]
  linear = aten.linear(flatten, linear_weight_q, %head.bias) : f32[batch, 5]
  linear_q = fxp.fake_quantize(linear, s, -32768, 32767) : f32[batch, 5]
  return linear_q"""


def _code(program: Program) -> str:
    """The lines of the operators, every scale written ``s``."""
    lines = [line for line in text(program).splitlines() if " = " in line or line.startswith("  return")]
    return re.sub(r"\b\d+\.\d+(e-\d+)?\b", "s", "\n".join(lines))


def _plan(program: Program, context: Context | None = None, **options: Any) -> Placement:
    return PlaceQuantizers(**options).decide(program, context or measured(program))


def _limits(plan: Placement) -> dict[str, tuple[int, int]]:
    return {site: (grid.qmin, grid.qmax) for site, grid in plan.activations.items()}


def _on(*batches: Tensor) -> Context:
    return Context(Evidence(Calibration(batches)))


def test_before_and_expected() -> None:
    program = two_paths()
    result = applied(PlaceQuantizers(), program, measured(program))
    assert result.stage == "simulated"
    assert _code(result) == EXPECTED
    assert all(result.tensors[name] is tensor for name, tensor in program.tensors.items())


def test_scales_come_from_the_ranges() -> None:
    program, context = two_paths(), measured(two_paths())
    plan, ranges = _plan(program, context), context.evidence.ranges(program)

    def grid(name: str, limits: tuple[int, int]) -> Grid:
        return activation_grid(ranges[name].low, ranges[name].high, unsigned=limits == U8, bits=16 if limits == S16 else 8)

    exact = {"x": S8, "relu": U8, "conv2d_1": S8, "add": S8, "relu_2": U8, "conv2d_3": S8, "linear": S16}
    assert {site: plan.activations[site] for site in exact} == {site: grid(site, limits) for site, limits in exact.items()}
    snapped = {"relu_3": U8, "adaptive_avg_pool2d": U8}
    for site, limits in snapped.items():
        # half a step of a b of 13 bits or more
        assert plan.activations[site].scale == pytest.approx(grid(site, limits).scale, rel=2.0**-13)
    assert plan.activations.keys() == exact.keys() | snapped.keys()


def test_every_multiplier_is_dyadic() -> None:
    plan = _plan(two_paths())
    grids = {site: grid.scale for site, grid in plan.activations.items()}
    layers = {"conv2d": ("x", "relu"), "conv2d_1": ("relu", "conv2d_1"), "conv2d_2": ("add", "relu_2")}
    layers |= {"conv2d_3": ("relu_2", "conv2d_3"), "linear": ("adaptive_avg_pool2d", "linear")}
    assert plan.weights.keys() == layers.keys()
    for layer, (source, site) in layers.items():
        snapped = plan.weights[layer]
        for scale, b in zip(snapped.scales, snapped.b, strict=True):
            assert grids[source] * scale / grids[site] == pytest.approx(b / 2**snapped.c, rel=1e-12)
    for real in (grids["relu_3"] / (4 * grids["adaptive_avg_pool2d"]), max(grids["conv2d_3"], grids["relu"]) / grids["relu_3"]):
        assert real * 2**16 == pytest.approx(round(real * 2**16), rel=1e-12)


def test_a_plan_survives_json_and_does_the_same() -> None:
    program, context = two_paths(), measured(two_paths())
    plan = _plan(program, context, weight_bits=4)
    data = json.loads(json.dumps(asdict(plan)))
    rebuilt = Placement(
        {site: Grid(**grid) for site, grid in data["activations"].items()},
        {layer: Snapped(**{**part, "scales": tuple(part["scales"]), "b": tuple(part["b"])}) for layer, part in data["weights"].items()},
    )
    assert rebuilt == plan
    with untouched(program):
        assert place(program, rebuilt).hash == PlaceQuantizers(weight_bits=4).apply(program, context).hash


def test_a_plan_with_narrowed_values_survives_json_too() -> None:
    program = ready("post-norm")
    plan = _plan(program, seen("post-norm"))
    data = json.loads(json.dumps(asdict(plan)))
    narrowed = {site: Narrowed(Grid(**part["grid"]), tuple(part["readers"])) for site, part in data["narrowed"].items()}
    assert narrowed == plan.narrowed
    assert narrowed.keys() == {"x", "layer_norm"}
    rebuilt = replace(plan, narrowed=narrowed)
    with untouched(program):
        assert place(program, rebuilt).hash == PlaceQuantizers().apply(program, seen("post-norm")).hash


class PostNorm(nn.Module):
    """norm(x + layer(x)), which a layer reads and the next sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x + self.first(x))
        result: Tensor = self.last(y + self.second(y))
        return result


NARROWED = """\
  x_q = fxp.fake_quantize(x, s, -32768, 32767) : f32[batch, 3, 4]
  x_q_q = fxp.fake_quantize(x_q, s, -128, 127) : f32[batch, 3, 4]
  linear_weight_q = fxp.fake_quantize_channels(%first.weight, %linear.scale, 0, -127, 127) : f32[4, 4]
  linear = aten.linear(x_q_q, linear_weight_q, %first.bias) : f32[batch, 3, 4]
  linear_q = fxp.fake_quantize(linear, s, -32768, 32767) : f32[batch, 3, 4]
  add = aten.add.Tensor(x_q, linear_q) : f32[batch, 3, 4]
  add_q = fxp.fake_quantize(add, s, -32768, 32767) : f32[batch, 3, 4]
  layer_norm = aten.layer_norm(add_q, [4], %norm.weight, %norm.bias, 1e-05, False) : f32[batch, 3, 4]
  layer_norm_q = fxp.fake_quantize(layer_norm, s, -32768, 32767) : f32[batch, 3, 4]
  layer_norm_q_1 = fxp.fake_quantize(layer_norm, s, -128, 127) : f32[batch, 3, 4]
  linear_1_weight_q = fxp.fake_quantize_channels(%second.weight, %linear_1.scale, 0, -127, 127) : f32[4, 4]
  linear_1 = aten.linear(layer_norm_q_1, linear_1_weight_q, %second.bias) : f32[batch, 3, 4]
  linear_1_q = fxp.fake_quantize(linear_1, s, -32768, 32767) : f32[batch, 3, 4]
  add_1 = aten.add.Tensor(layer_norm_q, linear_1_q) : f32[batch, 3, 4]
  add_1_q = fxp.fake_quantize(add_1, s, -32768, 32767) : f32[batch, 3, 4]
  layer_norm_1 = aten.layer_norm(add_1_q, [4], %last.weight, %last.bias, 1e-05, False) : f32[batch, 3, 4]
  layer_norm_1_q = fxp.fake_quantize(layer_norm_1, s, -32768, 32767) : f32[batch, 3, 4]
  return layer_norm_1_q"""


def test_a_normalised_value_is_narrowed_before_it_is_rounded_and_any_other_one_after() -> None:
    program = captured(PostNorm(), 1, 3, 4)
    assert _code(applied(PlaceQuantizers(), program, measured(program))) == NARROWED


@pytest.mark.parametrize("name", BLOCKS)
def test_a_simulated_transformer_can_be_trained(name: str) -> None:
    """Gradients reach every weight, straight through the quantisers."""
    program = PlaceQuantizers(integer_only=True).apply(ready(name), seen(name))
    weights = {key: tensor for key, tensor in program.tensors.items() if tensor.requires_grad}
    assert {"query.weight", "down.bias", "norm1.weight"} <= weights.keys()
    (result,) = program.module(*example(name, 3, 9))
    gradients = torch.autograd.grad(result.square().sum(), list(weights.values()), allow_unused=True)
    for key, gradient in zip(weights, gradients, strict=True):
        if key == "key.bias":  # it adds the same to all scores of a query
            continue
        assert gradient is not None, key
        assert bool(gradient.isfinite().all()), key
        assert float(gradient.abs().max()) > 1e-6, key


def test_an_edited_plan_is_followed() -> None:
    plan = _plan(two_paths())
    wider = replace(plan, activations={**plan.activations, "relu": replace(plan.activations["relu"], scale=0.5)})
    (node,) = [node for node in place(two_paths(), wider).graph.nodes if node.name == "relu_q"]
    assert arguments(node)["scale"] == 0.5


@pytest.mark.parametrize(
    "plan",
    [
        Placement({"x": Grid(0.1, *S8), "zzz": Grid(0.1, *S8)}, {}),
        Placement({"x": Grid(0.1, *S16)}, {}, {"zzz": Narrowed(Grid(0.1, *S8), ())}),
    ],
)
def test_a_plan_of_another_program_is_an_error(plan: Placement) -> None:
    with pytest.raises(PassError, match="place-quantizers: the plan names 'zzz'; use the plan of this very program"):
        place(two_paths(), plan)


def _widths(program: Program) -> list[int]:
    """The largest weight of each layer in order, each filling the range of its quantiser."""
    widths = []
    for node in program.graph.find_nodes(op="call_function", target=_fxp.fake_quantize_channels.default):
        named = arguments(node)
        scale, weight = program.tensors[named["scale"].target].float(), program.tensors[named["x"].target].detach()
        most = named["qmax"]
        along = [-1 if d == named["axis"] else 1 for d in range(weight.dim())]
        steps = _fxp.fake_quantize_channels(weight, scale, named["axis"], -most, most) / scale.reshape(along)
        assert (named["qmin"], int(steps.abs().max().round())) == (-most, most)
        widths.append(most)
    return widths


LAYERS = (nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 1), nn.ConvTranspose2d(6, 2, 3), nn.Flatten(), nn.Linear(72, 4))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [127, 127, 127, 127]),
        ({"weight_bits": 4}, [127, 7, 7, 127]),
        ({"weight_bits": 2}, [127, 1, 1, 127]),
        ({"weight_bits": 4, "edge_bits": 4}, [7, 7, 7, 7]),
        ({"edge_bits": 2}, [1, 127, 127, 1]),
        ({"weight_bits": 5, "edge_bits": 3}, [3, 15, 15, 3]),
    ],
)
def test_inner_layers_take_the_bits_that_were_asked_for_and_the_first_and_the_last_their_own(
    options: dict[str, int], expected: list[int]
) -> None:
    program = captured(Chain(*LAYERS), 1, 3, 6, 6)
    result = PlaceQuantizers(**options).apply(program, measured(program))
    assert _widths(result) == expected
    assert _limits(_plan(program, **options)) == {"x": S8, "relu": U8, "conv2d_1": S8, "conv_transpose2d": S8, "linear": S16}


def test_one_layer_is_the_first_and_the_last() -> None:
    program = captured(Chain(nn.Flatten(), nn.Linear(12, 2)), 1, 3, 2, 2)
    assert _widths(PlaceQuantizers(weight_bits=2, edge_bits=4).apply(program, measured(program))) == [7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_bits": 0}, "weight_bits=0; one of 8, 7, 6, 5, 4, 3, 2"),
        ({"weight_bits": 16}, "weight_bits=16; one of 8, 7, 6, 5, 4, 3, 2"),
        ({"weight_bits": "8"}, "weight_bits='8'; one of 8, 7, 6, 5, 4, 3, 2"),
        ({"edge_bits": 1}, "edge_bits=1; one of 8, 7, 6, 5, 4, 3, 2"),
        ({"ranges": "median"}, "ranges='median'; one of minmax, percentile, mse, entropy"),
        ({"border_ranges": ""}, "border_ranges=''; one of minmax, percentile, mse, entropy"),
        ({"percentile": 50.0}, "percentile=50.0; above 50, up to 100"),
        ({"percentile": 100.1}, "percentile=100.1; above 50, up to 100"),
    ],
)
def test_other_options_are_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        PlaceQuantizers(**options)
    assert str(caught.value) == f"place-quantizers: {message}"


@pytest.mark.parametrize("method", ["percentile", "mse", "entropy"])
def test_ranges_are_those_of_the_method_and_at_the_border_those_of_another(method: str) -> None:
    program, context = two_paths(), measured(two_paths())
    histograms = context.evidence.histograms(program)
    plan = _plan(program, context, ranges=method, percentile=99.0)
    for site, limits in _limits(plan).items():
        seen = histograms[site].range("minmax" if site in ("x", "linear") else method, 99.0)
        expected = activation_grid(seen.low, seen.high, unsigned=limits == U8, bits=16 if limits == S16 else 8)
        assert plan.activations[site].scale == pytest.approx(expected.scale, rel=2.0**-12)
    border = _plan(program, context, border_ranges=method, percentile=99.0)
    plain = _plan(program, context)
    narrower = {site for site, grid in border.activations.items() if grid.scale < 0.999 * plain.activations[site].scale}
    assert narrower <= {"x", "linear"}
    assert method == "mse" or narrower


def test_an_outlier_costs_the_others_nothing_with_a_percentile() -> None:
    program = captured(Chain(nn.ReLU(), nn.Conv2d(1, 2, 1)), 1, 1, 8, 8)
    x = torch.randn(64, 1, 8, 8)
    x[0, 0, 0, 0] = 1000.0
    options = ({"input_floor": 0.0}, {"ranges": "percentile", "percentile": 99.9})
    plain, clipped = (_plan(program, _on(x), **each).activations["relu"].scale for each in options)
    assert plain == pytest.approx(1000 / 255)
    assert clipped < 6 / 255


@pytest.mark.parametrize(("low", "expected"), [(0.0, U8), (-1e-3, S8)])
def test_an_input_that_is_never_negative_is_unsigned(low: float, expected: tuple[int, int]) -> None:
    program = captured(nn.Conv2d(1, 2, 1), 1, 1, 2, 2)
    plan = _plan(program, _on(torch.linspace(low, 1.0, 4).reshape(1, 1, 2, 2)))
    assert list(_limits(plan).values()) == [expected, S16]


SITES: dict[str, tuple[Callable[[], nn.Module], dict[str, tuple[int, int]]]] = {
    "the last convolution has 16 bits": (lambda: nn.Conv2d(3, 2, 1), {"x": S8, "conv2d": S16}),
    "a rectified last layer has 8": (lambda: Chain(nn.Conv2d(3, 2, 1), nn.ReLU()), {"x": S8, "relu": U8}),
    "a layer whose reader only moves has 8": (lambda: Chain(nn.Conv2d(3, 2, 1), nn.Flatten()), {"x": S8, "conv2d": S8}),
    "an average of signed values is signed": (lambda: nn.AvgPool2d(2), {"x": S8, "avg_pool2d": S8}),
    "an average that alone is rectified is unsigned": (lambda: Chain(nn.AvgPool2d(2), nn.ReLU()), {"x": S8, "relu": U8}),
    "a maximum keeps its input's grid": (lambda: Chain(nn.MaxPool2d(2), nn.ReLU()), {"x": S8, "relu": U8}),
    "a function of many operators has one": (
        lambda: Chain(nn.MaxPool2d(2), nn.Hardswish(), nn.BatchNorm2d(3)),
        {"x": S8, "batch_norm": S8},
    ),
    "an upsampled value keeps its grid": (lambda: Chain(nn.Upsample(scale_factor=2), nn.ConstantPad2d(1, 0.5)), {"x": S8}),
    "a bilinear one has its own": (lambda: Chain(nn.Upsample(scale_factor=2, mode="bilinear")), {"x": S8, "upsample_bilinear2d": S8}),
    "a second relu is no part of the layer": (
        lambda: Chain(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.ReLU()),
        {"x": S8, "relu": U8, "relu_1": U8},
    ),
}


@pytest.mark.parametrize("name", SITES)
def test_where_quantizers_stand(name: str) -> None:
    make, expected = SITES[name]
    model = make()
    program = captured(model if isinstance(model, Chain) else Chain(model), 1, 3, 4, 4)
    assert _limits(_plan(program)) == expected
    applied(PlaceQuantizers(), program, measured(program))


def test_a_sum_of_unsigned_values_is_unsigned() -> None:
    program = captured(lambda x: functional.relu(x) + functional.relu(x.transpose(2, 3)), 1, 3, 4, 4)
    assert _limits(_plan(program)) == {"x": S8, "relu": U8, "relu_1": U8, "add": U8}


def test_every_output_is_quantized_and_an_input_may_be_one() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 2), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return self.one(x), x, self.two(x)

    program = captured(Both(), 1, 4)
    result = applied(PlaceQuantizers(), program, measured(program))
    assert _limits(_plan(program)) == {"x": S8, "linear": S16, "linear_1": S16}
    assert [node.name for node in result.outputs()] == ["linear_q", "x_q", "linear_1_q"]


def test_a_shared_weight_has_one_set_of_scales_for_all_of_its_readers() -> None:
    program = captured(LayerTwice(), 1, 4)
    result = applied(PlaceQuantizers(), program, measured(program))
    assert operators(result).count("fxp.fake_quantize_channels") == 2
    assert torch.equal(result.tensors["linear.scale"], result.tensors["linear_1.scale"])


def test_values_that_are_zero_on_all_data_get_scale_one() -> None:
    program = captured(Chain(nn.ReLU(), nn.Linear(2, 2)), 1, 2)
    plan = _plan(program, _on(-torch.ones(3, 2)))
    assert plan.activations["relu"].scale == pytest.approx(1.0, rel=2.0**-13)  # 1, snapped


REFUSED: list[tuple[Callable[[Tensor], Tensor], str, str]] = [
    (lambda x: x.softmax(1), "softmax", "it is not over the last dimension"),
    (lambda x: torch.add(x, x.transpose(2, 3), alpha=2), "add", "it scales its second operand by 2"),
    (lambda x: x / (x.mean((2, 3), keepdim=True) + 9), "div", "aten.div.Tensor of several values has no integer form"),
    (lambda x: functional.adaptive_avg_pool2d(x, 9), "adaptive_avg_pool2d", "its windows fall into 81 regions of equal ones, more than 64"),
    (lambda x: functional.relu(x).argmax(1), "argmax", "aten.argmax.default has no integer form"),
    (lambda x: functional.interpolate(x, size=(7, 7)), "upsample_nearest2d", "it scales 5x5 to 7x7, by no whole factors"),
]


@pytest.mark.parametrize(("body", "node", "reason"), REFUSED, ids=[node for _, node, _ in REFUSED])
def test_what_has_no_integer_form_is_refused_by_name_where_that_was_asked_for(
    body: Callable[[Tensor], Tensor], node: str, reason: str
) -> None:
    program, context = captured(body, 1, 3, 5, 5), Context()
    with untouched(program), pytest.raises(RefusalError) as caught:
        PlaceQuantizers(integer_only=True).apply(program, context)
    assert str(caught.value).startswith(f"place-quantizers, node {node}: {reason}")
    assert str(caught.value).endswith("; rewrite it, or allow float islands: integer_only=false")
    assert (context.refusals[0].node, context.refusals[0].way_on) == (node, "rewrite the model without it")
    assert caught.value.__notes__ == refusals(context)


@pytest.mark.parametrize(("body", "node", "reason"), REFUSED, ids=[node for _, node, _ in REFUSED])
def test_otherwise_it_stays_in_floats_and_the_report_says_so(body: Callable[[Tensor], Tensor], node: str, reason: str) -> None:
    program = captured(body, 1, 3, 5, 5)
    context = measured(program)
    result = PlaceQuantizers().apply(program, context)
    assert result.stage == "simulated"
    assert [refused.node for refused in context.refusals] == [node]
    assert refusals(context)[0].startswith(f"{node}: {reason}")
    assert refusals(context)[0].endswith("; it stays in floats")


def test_every_refused_node_is_listed() -> None:
    context = Context()
    program = captured(lambda x: x.cumsum(1).relu().cumprod(1), 1, 3)
    with pytest.raises(RefusalError, match="node cumsum") as caught:
        PlaceQuantizers(integer_only=True).apply(program, context)
    assert [refused.node for refused in context.refusals] == ["cumsum", "cumprod"]
    assert len(caught.value.__notes__) == 2


def test_what_another_pass_refused_is_no_reason_to_stop() -> None:
    program = two_paths()
    context = measured(program)
    context.refusals.append(Refused("conv2d", "some other pass left it alone"))
    assert PlaceQuantizers().apply(program, context).stage == "simulated"
    assert len(context.refusals) == 1


def test_without_calibration_there_are_no_ranges() -> None:
    with pytest.raises(CalibrationError, match="needs calibration data"):
        PlaceQuantizers().apply(two_paths(), Context())


def test_an_output_far_smaller_than_its_input_is_an_error_that_names_it() -> None:
    program = captured(lambda x: (x + x.flip(1).contiguous()).relu(), 1, 2)
    with pytest.raises(PassError) as caught:
        PlaceQuantizers().apply(program, _on(torch.tensor([[-1e9, 1e-3]])))
    assert str(caught.value).startswith("place-quantizers, node relu: multiplier ")
    assert str(caught.value).endswith(" is outside (0, 2^14); rescale the layer's weights or its input")
