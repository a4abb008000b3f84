"""The grid of every value: its range, its type and what it shares; and what stays in floats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from blocks import ready, seen
from float_programs import captured, sample
from fxpress_ir import Program
from fxpress_ir.errors import PassError
from fxpress_passes.evidence import Calibration, Evidence, Range
from fxpress_passes.quantize.decision import Decision, Placement, islands
from fxpress_passes.quantize.precision import Precision
from fxpress_passes.quantize.recognize import recognize
from fxpress_passes.quantize.recognized import Recognized
from fxpress_passes.quantize.scales import PROBABILITIES, activation_grid
from torch import Tensor, nn
from torch.nn import functional

S8, U8, S16 = (-128, 127), (0, 255), (-(2**15), 2**15 - 1)


class Layers(nn.Module):
    """Layers of the same input, given to `body`; `self.line` takes 4 features."""

    def __init__(self, body: Callable[..., Any], count: int = 2) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.layers = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(count))
            self.line = nn.Linear(4, 4)
        self.body = body

    def forward(self, x: Tensor) -> Any:
        return self.body(*(layer(x) for layer in self.layers), self.line)


def _captured(body: Callable[..., Any], count: int = 2) -> Program:
    return captured(Layers(body, count), 1, 4, 4, 4)


def _ranges(program: Program) -> dict[str, Range]:
    return dict(Evidence(Calibration([sample(program, 8, seed) for seed in range(4)])).ranges(program))


def _plan(program: Program, **changed: Range) -> Placement:
    ranges = {**_ranges(program), **changed}
    return Decision(program, recognize(program.graph), lambda node, border: ranges[node.name], lambda node: Precision()).plan()


def _limits(plan: Placement) -> dict[str, tuple[int, int]]:
    return {site: (grid.qmin, grid.qmax) for site, grid in plan.activations.items()}


KINDS: dict[str, tuple[Callable[..., Any], dict[str, tuple[int, int]]]] = {
    "a sum of unsigned values": (lambda a, b, _: a.relu() + b.relu(), {"relu": U8, "relu_1": U8, "add": U8}),
    "a difference of unsigned values": (lambda a, b, _: a.relu() - b.relu(), {"relu": U8, "relu_1": U8, "sub": S8}),
    "a product of unsigned values": (lambda a, b, _: a.relu() * b.relu(), {"relu": U8, "relu_1": U8, "mul": U8}),
    "a product with a signed value": (lambda a, b, _: a * b.relu(), {"conv2d": S8, "relu": U8, "mul": S8}),
    "tables that are never negative": (
        lambda a, b, _: a.sigmoid() + b.abs(),
        {"conv2d": S8, "sigmoid": U8, "conv2d_1": S8, "abs_1": U8, "add": U8},
    ),
    "a table that may be": (lambda a, b, _: (a + b).tanh(), {"conv2d": S8, "conv2d_1": S8, "add": S8, "tanh": S8}),
    "bounds above zero": (lambda a, b, _: (a + b).clamp(0.5, 2), {"conv2d": S8, "conv2d_1": S8, "clamp": U8}),
    "bounds below zero": (lambda a, b, _: (a + b).clamp(-0.5, 2), {"conv2d": S8, "conv2d_1": S8, "clamp": S8}),
    "an average of unsigned values": (
        lambda a, b, _: functional.avg_pool2d(a.relu(), 2) - functional.avg_pool2d(b, 2),
        {"relu": U8, "conv2d_1": S8, "avg_pool2d": U8, "avg_pool2d_1": S8, "sub": S8},
    ),
    "a concatenation of unsigned values": (lambda a, b, _: torch.cat([a.relu(), b.relu()], 1), {"relu": U8, "relu_1": U8, "cat": U8}),
    "a concatenation with a signed value": (lambda a, b, _: torch.cat([a.relu(), b], 1), {"relu": S8, "conv2d_1": S8, "cat": S8}),
    "a concatenation of sums": (
        lambda a, b, _: torch.cat([(a + b).relu(), (a - b).relu()], 1),
        {"conv2d": S8, "conv2d_1": S8, "relu": U8, "relu_1": U8, "cat": U8},
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_value_that_cannot_be_negative_is_unsigned(name: str) -> None:
    body, expected = KINDS[name]
    assert _limits(_plan(_captured(body))) == {"x": S8, **expected}


def test_values_that_meet_have_one_grid_wide_enough_for_each() -> None:
    program = _captured(lambda a, b, _: torch.cat([a, b, a + b], 1))
    plan = _plan(program, conv2d=Range(-3.0, 0.5), conv2d_1=Range(-1.0, 2.0), cat=Range(-3.0, 9.0))
    wide = activation_grid(-3.0, 9.0, unsigned=False)
    assert {plan.activations[site] for site in ("conv2d", "conv2d_1", "cat")} == {wide}
    assert plan.activations["add"] != wide


def test_what_a_value_is_padded_with_is_in_its_range() -> None:
    def padded(value: float) -> Program:
        return _captured(lambda a, b, _: functional.pad(functional.max_pool2d(a.relu(), 2), (1, 1), value=value) + b[:, :, :2])

    seen = Range(0.0, 2.0)
    grids = {value: _plan(padded(value), relu=seen).activations["relu"] for value in (0.0, 1.0, 5.0, -4.0)}
    assert grids == {
        0.0: activation_grid(0.0, 2.0, unsigned=True),
        1.0: activation_grid(0.0, 2.0, unsigned=True),
        5.0: activation_grid(0.0, 5.0, unsigned=True),
        -4.0: activation_grid(-4.0, 2.0, unsigned=False),
    }


ENDS: dict[str, tuple[Callable[..., Any], dict[str, tuple[int, int]]]] = {
    "an output": (lambda a, line: line(a), {"linear": S16}),
    "the input of an island": (lambda a, line: line(a).softmax(1), {"linear": S16}),
    "an output and the input of an island": (lambda a, line: ((y := line(a)), y.softmax(1)), {"linear": S16}),
    "read by a layer too": (lambda a, line: ((y := line(a)).softmax(1), line(y)), {"linear": S8, "linear_1": S16}),
    "clamped": (lambda a, line: line(a).relu().softmax(1), {"relu": U8}),
}


@pytest.mark.parametrize("name", ENDS)
def test_only_what_leaves_the_integers_has_16_bits(name: str) -> None:
    body, expected = ENDS[name]
    program = _captured(body, count=1)
    found = _limits(_plan(program))
    assert {site: found[site] for site in expected} == expected
    assert found.keys() == {"x", "conv2d", *expected}


ISLANDS: dict[str, tuple[Callable[..., Any], dict[str, str]]] = {
    "none": (lambda a, line: line(a.relu()), {}),
    "one": (lambda a, line: line(a.softmax(1)), {"softmax": "it is not over the last dimension"}),
    "what moves its values to the output": (
        lambda a, line: a.softmax(1).transpose(1, 2).flatten(1),
        {
            "softmax": "it is not over the last dimension",
            "transpose": "it moves what softmax computes in floats",
            "flatten": "it moves what transpose computes in floats",
        },
    ),
    "what moves its values to the next": (
        lambda a, line: line(a.softmax(1).transpose(1, 2).cumsum(1)),
        {
            "softmax": "it is not over the last dimension",
            "transpose": "it moves what softmax computes in floats",
            "cumsum": "aten.cumsum.default has no integer form",
        },
    ),
    "what moves its values to a layer is none": (
        lambda a, line: (line(y := a.softmax(1).transpose(1, 2)), y.flatten(1)),
        {"softmax": "it is not over the last dimension"},
    ),
}


@pytest.mark.parametrize("name", ISLANDS)
def test_what_stays_in_floats(name: str) -> None:
    body, expected = ISLANDS[name]
    found = islands(recognize(_captured(body, count=1).graph))
    assert {node.name: reason for node, reason in found.items()} == expected


def test_an_island_that_integers_read_is_a_border() -> None:
    program = _captured(lambda a, line: line(a.softmax(1)), count=1)
    assert _limits(_plan(program)) == {"x": S8, "conv2d": S16, "softmax": U8, "linear": S16}


def test_an_island_that_only_floats_read_has_no_quantizer() -> None:
    program = captured(lambda x: x.cumsum(1).cumprod(1), 1, 4)
    assert _plan(program) == Placement({}, {})


def test_ranges_of_borders_are_asked_for_as_such() -> None:
    program, asked = _captured(lambda a, line: line(a.softmax(1).relu()), count=1), dict[str, bool]()
    ranges = _ranges(program)

    def range_of(node: Any, border: bool) -> Range:
        asked[node.name] = border
        return ranges[node.name]

    Decision(program, recognize(program.graph), range_of, lambda node: Precision()).plan()
    assert asked == {"x": True, "conv2d": True, "softmax": True, "relu": False, "linear": True}


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_weights_take_the_bits_of_their_layer(bits: int) -> None:
    program = _captured(lambda a, b, _: a + b)
    ranges = _ranges(program)
    widths = {"conv2d": 8, "conv2d_1": bits}
    plan = Decision(program, recognize(program.graph), lambda node, _: ranges[node.name], lambda node: Precision(widths[node.name])).plan()
    assert {name: snapped.bits for name, snapped in plan.weights.items()} == widths


def test_a_function_that_is_no_number_on_its_values_is_an_error() -> None:
    """Of an unsigned value the square root is one everywhere, of a signed one it is not."""
    fine = _plan(captured(lambda x: x.square().flatten(1).sqrt(), 1, 4))
    assert _limits(fine) == {"x": S8, "square": U8, "sqrt": U8}
    program = captured(lambda x: x.sqrt(), 1, 4)
    ranges = {"x": Range(-1e-3, 1.0), "sqrt": Range(0.0, 1.0)}
    with pytest.raises(PassError) as caught:
        Decision(program, recognize(program.graph), lambda node, border: ranges[node.name], lambda node: Precision()).plan()
    assert str(caught.value).startswith("node sqrt: it is not a number at -")


def test_a_range_far_too_small_is_an_error_that_names_it() -> None:
    program = _captured(lambda a, b, _: a + b)
    with pytest.raises(PassError) as caught:
        _plan(program, add=Range(-1e-9, 1e-9))
    assert str(caught.value).startswith("place-quantizers, node add: multiplier ")
    assert str(caught.value).endswith(" is outside (0, 2^14); rescale the layer's weights or its input")


def _in_blocks(name: str) -> tuple[Program, Placement, dict[str, Range]]:
    program, context = ready(name), seen(name)
    ranges = dict(context.evidence.ranges(program))
    return program, _plan_of(program, ranges), ranges


def _plan_of(program: Program, ranges: Mapping[str, Range], bits: int = 8) -> Placement:
    return Decision(program, recognize(program.graph), lambda node, border: ranges[node.name], lambda node: Precision(), bits).plan()


def test_the_values_of_the_residual_stream_have_16_bits_and_what_layers_read_8() -> None:
    _, plan, _ = _in_blocks("pre-norm")
    short = {site for site, limits in _limits(plan).items() if limits == S16}
    stream = {"x", "token", "cat", "positions", "add", "linear_3", "add_1", "linear_5", "add_2"}
    assert short == {*stream, "linear_6"}  # and the last layer
    assert plan.activations["token"] == plan.activations["x"] == plan.activations["cat"]
    assert plan.narrowed == {}
    _, plan, _ = _in_blocks("decoder")
    short = {site for site, limits in _limits(plan).items() if limits == S16}
    assert short == {"embedding", "linear_3", "add_2", "linear_6", "add_3", "linear_7"}
    assert _limits(plan)["add"] == _limits(plan)["add_1"] == S8  # the rotations


def test_a_value_of_16_bits_that_layers_read_is_narrowed_for_them() -> None:
    """The normalised value between two blocks is read by a layer and by a sum; the input by three layers and by a sum."""
    _, plan, ranges = _in_blocks("post-norm")
    assert {name: narrowed.readers for name, narrowed in plan.narrowed.items()} == {
        "x": ("linear", "linear_1", "linear_2"),
        "layer_norm": ("linear_4",),
    }
    for name, narrowed in plan.narrowed.items():
        wide, grid = plan.activations[name], narrowed.grid
        assert (wide.bits, grid.bits) == (16, 8)
        natural = activation_grid(ranges[name].low, ranges[name].high, unsigned=False)
        assert grid.scale == pytest.approx(natural.scale, rel=2.0**-8)
        steps = wide.scale / grid.scale * 2**16
        assert steps == pytest.approx(round(steps), rel=1e-12)


def test_a_constant_in_the_stream_is_narrowed_by_its_own_range() -> None:
    class Twice(nn.Module):
        """A constant that a residual sum adds and a product reads."""

        def __init__(self) -> None:
            super().__init__()
            self.constant, self.line = nn.Parameter(torch.linspace(-3, 3, 24).reshape(1, 6, 4)), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return functional.layer_norm(x + self.constant, (4,)) + self.line(x) * self.constant

    program = captured(Twice(), 1, 6, 4)
    plan = _plan(program)
    assert plan.activations["constant"] == activation_grid(-3.0, 3.0, unsigned=False, bits=16)
    assert plan.narrowed["constant"].readers == ("mul",)
    assert plan.narrowed["constant"].grid.scale == pytest.approx(3 / 127, rel=2.0**-8)
    assert _limits(plan)["x"] == S16
    assert plan.narrowed["x"].readers == ("linear",)


def test_the_grids_of_attention_are_snapped_to_the_products_that_they_come_from() -> None:
    program, plan, ranges = _in_blocks("decoder")
    (node,) = [node for node, what in recognize(program.graph).found.items() if isinstance(what, Recognized) and what.kind == "attention"]
    what = recognize(program.graph).found[node]
    assert isinstance(what, Recognized)
    assert what.scores is not None
    grids = {name: grid.scale for name, grid in plan.activations.items()}
    multipliers = (
        grids["add"] * grids["add_1"] * what.factor / grids[what.scores.name],
        grids["linear_2"] / 256 / grids[node.name],
    )
    for real in multipliers:
        assert real * 2**16 == pytest.approx(round(real * 2**16), rel=1e-12)
    for site in (what.scores.name, node.name):
        assert grids[site] == pytest.approx(activation_grid(ranges[site].low, ranges[site].high, unsigned=False).scale, rel=2.0**-8)


def test_probabilities_have_a_grid_of_their_own() -> None:
    program = captured(lambda x: x.softmax(-1), 1, 3, 4)
    assert _plan(program).activations["softmax"] == PROBABILITIES


def test_activations_of_16_bits_are_narrowed_for_attention_alone() -> None:
    program, _, ranges = _in_blocks("pre-norm")
    plan = _plan_of(program, ranges, 16)
    readers = {reader for narrowed in plan.narrowed.values() for reader in narrowed.readers}
    assert readers == {"matmul_default", "transpose_int", "matmul_default_1"}
    assert {site for site, grid in plan.activations.items() if grid.bits == 8} == {"mul_tensor"}  # the scores
