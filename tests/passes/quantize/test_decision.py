"""The grid of every value: its range, its type and what it shares; and what stays in floats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from float_programs import captured, sample
from fxpress_ir import Program
from fxpress_ir.errors import PassError
from fxpress_passes.evidence import Calibration, Evidence, Range
from fxpress_passes.quantize.decision import Decision, Placement, islands
from fxpress_passes.quantize.recognize import recognize
from fxpress_passes.quantize.scales import activation_grid
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
    return Decision(program, recognize(program.graph), lambda node, border: ranges[node.name], lambda node: 8).plan()


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
    "one": (lambda a, line: line(a.softmax(1)), {"softmax": "aten.softmax.int has no integer form"}),
    "what moves its values to the output": (
        lambda a, line: a.softmax(1).transpose(1, 2).flatten(1),
        {
            "softmax": "aten.softmax.int has no integer form",
            "transpose": "it moves what softmax computes in floats",
            "flatten": "it moves what transpose computes in floats",
        },
    ),
    "what moves its values to the next": (
        lambda a, line: line(a.softmax(1).transpose(1, 2).cumsum(1)),
        {
            "softmax": "aten.softmax.int has no integer form",
            "transpose": "it moves what softmax computes in floats",
            "cumsum": "aten.cumsum.default has no integer form",
        },
    ),
    "what moves its values to a layer is none": (
        lambda a, line: (line(y := a.softmax(1).transpose(1, 2)), y.flatten(1)),
        {"softmax": "aten.softmax.int has no integer form"},
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
    program = captured(lambda x: x.cumsum(1).softmax(1), 1, 4)
    assert _plan(program) == Placement({}, {})


def test_ranges_of_borders_are_asked_for_as_such() -> None:
    program, asked = _captured(lambda a, line: line(a.softmax(1).relu()), count=1), dict[str, bool]()
    ranges = _ranges(program)

    def range_of(node: Any, border: bool) -> Range:
        asked[node.name] = border
        return ranges[node.name]

    Decision(program, recognize(program.graph), range_of, lambda node: 8).plan()
    assert asked == {"x": True, "conv2d": True, "softmax": True, "relu": False, "linear": True}


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_weights_take_the_bits_of_their_layer(bits: int) -> None:
    program = _captured(lambda a, b, _: a + b)
    ranges = _ranges(program)
    widths = {"conv2d": 8, "conv2d_1": bits}
    plan = Decision(program, recognize(program.graph), lambda node, _: ranges[node.name], lambda node: widths[node.name]).plan()
    assert {name: snapped.bits for name, snapped in plan.weights.items()} == widths


def test_a_function_that_is_no_number_on_its_values_is_an_error() -> None:
    """Of an unsigned value the square root is one everywhere, of a signed one it is not."""
    fine = _plan(captured(lambda x: x.square().flatten(1).sqrt(), 1, 4))
    assert _limits(fine) == {"x": S8, "square": U8, "sqrt": U8}
    program = captured(lambda x: x.sqrt(), 1, 4)
    ranges = {"x": Range(-1e-3, 1.0), "sqrt": Range(0.0, 1.0)}
    with pytest.raises(PassError) as caught:
        Decision(program, recognize(program.graph), lambda node, border: ranges[node.name], lambda node: 8).plan()
    assert str(caught.value).startswith("node sqrt: it is not a number at -")


def test_a_range_far_too_small_is_an_error_that_names_it() -> None:
    program = _captured(lambda a, b, _: a + b)
    with pytest.raises(PassError) as caught:
        _plan(program, add=Range(-1e-9, 1e-9))
    assert str(caught.value).startswith("place-quantizers, node add: multiplier ")
    assert str(caught.value).endswith(" is outside (0, 2^14); rescale the layer's weights or its input")
