"""Channels equalised in front of linear layers: where the factors went, the same function, and better integers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from float_programs import applied, captured, measured, operators, refusals, sample, untouched
from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError, PassError, PipelineError
from fxpress_passes import Context, Equalize
from fxpress_passes.contract import difference
from fxpress_passes.pipeline import Pipeline
from torch import Tensor, nn
from torch.nn import functional

WIDE = torch.tensor([40.0, 1.0, 0.02, 1.0, 5.0, 1.0, 1.0, 0.3])
"""What the channels of the values below are multiplied by."""


class Layers(nn.Module):
    """Some layers whose weights are seeded, and what is computed with them."""

    def __init__(self, body: Callable[[Layers, Tensor], Tensor]) -> None:
        super().__init__()
        self.body = body
        self.wide: Tensor
        self.register_buffer("wide", WIDE)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.second, self.third, self.out = (nn.Linear(8, 8) for _ in range(4))
            self.norm, self.square = nn.LayerNorm(8), nn.RMSNorm(8)
            for weight in (self.norm.weight, self.square.weight):
                weight.data = WIDE.clone()
            self.norm.bias.data = WIDE * torch.randn(8)
            self.third.weight.data *= WIDE[:, None]
            self.prelu = nn.PReLU(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def attention(m: Layers, x: Tensor) -> Tensor:
    q, k, v = (layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (m.first, m.second, m.third))
    return m.out((q @ k.transpose(-1, -2)).softmax(-1).matmul(v).transpose(1, 2).flatten(2))


def grouped(m: Layers, x: Tensor) -> Tensor:
    """Two heads of queries for the one of keys and values that the first four rows make."""
    q = m.first(x).unflatten(-1, (2, 4)).transpose(1, 2)
    k, v = (functional.linear(x, w.weight[:4]).unflatten(-1, (1, 4)).transpose(1, 2).expand(-1, 2, -1, -1) for w in (m.second, m.third))
    return m.out((q @ k.transpose(-1, -2)).softmax(-1).matmul(v).transpose(1, 2).flatten(2))


LINEAR, NORM, TABLE = (
    "aten.linear",
    "aten.layer_norm",
    ["aten.mul.Tensor", "aten.add.Tensor", "aten.gelu", "aten.sub.Tensor", "aten.mul.Tensor"],
)
CASES: dict[str, tuple[Callable[[Layers, Tensor], Tensor], list[str]]] = {
    "norm": (lambda m, x: m.out(m.norm(x)), [NORM, LINEAR]),
    "norm of two": (lambda m, x: m.first(y := m.norm(x)) + m.second(y), [NORM, LINEAR, LINEAR, "aten.add.Tensor"]),
    "norm read by others": (lambda m, x: m.out(y := m.norm(x)) + y, [NORM, NORM, LINEAR, "aten.add.Tensor"]),
    "rms norm": (lambda m, x: m.out(m.square(x)), ["aten.rms_norm", LINEAR]),
    "linear": (lambda m, x: m.out(m.third(x)), [LINEAR, LINEAR]),
    "relu": (lambda m, x: m.out(m.third(x).relu()), [LINEAR, "aten.relu", LINEAR]),
    "gate": (lambda m, x: m.out(torch.tanh(m.first(x)) * m.third(x)), [LINEAR, "aten.tanh", LINEAR, "aten.mul.Tensor", LINEAR]),
    "gelu": (lambda m, x: m.out(functional.gelu(m.third(x))), [LINEAR, *TABLE, LINEAR]),
    "gelu of an input": (lambda m, x: m.out(functional.gelu(x * m.wide)), ["aten.mul.Tensor", *TABLE[2:], LINEAR]),
    "gelu read by others": (lambda m, x: m.out(y := functional.gelu(m.third(x))) + y, [LINEAR, *TABLE[2:], LINEAR, "aten.add.Tensor"]),
}


@pytest.mark.parametrize("name", CASES)
def test_before_and_expected(name: str) -> None:
    body, expected = CASES[name]
    before = captured(Layers(body), 2, 5, 8)
    after = applied(Equalize(), before, measured(before))
    assert operators(after) == expected


@pytest.mark.parametrize("body", [attention, grouped])
def test_factors_pass_through_attention(body: Callable[[Layers, Tensor], Tensor]) -> None:
    """The values' rows take them; where two heads share a row, they share its factor."""
    before = Pipeline.parse("fold-constants, decompose-unflatten").run(captured(Layers(body), 2, 5, 8)).program
    after = applied(Equalize(), before, measured(before))
    assert operators(after) == operators(before)
    spreads = [_spread(_weight(program, -2 if body is attention else 2)) for program in (before, after)]
    assert spreads[1] < spreads[0] / 4


def _weight(program: Program, position: int) -> Tensor:
    layers = [node for node in program.graph.nodes if node.target is torch.ops.aten.linear.default]
    return program.tensors[str(layers[position].args[1].target)]


def _spread(weight: Tensor) -> float:
    rows = weight.detach().abs().amax(1)
    return float(rows.max() / rows.min())


@pytest.mark.parametrize("name", ["norm", "norm of two", "rms norm", "linear", "gate", "gelu"])
def test_integers_are_nearer(name: str) -> None:
    """3 dB at least: in 8 bits each of these loses a channel or two to one that is forty times as wide."""
    before = captured(Layers(CASES[name][0]), 2, 5, 8)
    data, inputs = [sample(before, 16, seed) for seed in range(4)], sample(before, 16, 99)
    found = [
        Pipeline.parse(f"{text}quantize-dyadic{{integer_only=true,input_floor=0}}").run(before, calibration=data).program
        for text in ("", "equalize, ")
    ]
    plain, equalized = (difference(before.run(*inputs), program.run(*inputs)).sqnr for program in found)
    assert equalized > plain + 3


def test_nothing_is_done_where_nothing_helps() -> None:
    """Channels as wide as each other before and in a layer: no factor beats none by what it saves."""
    program = captured(lambda x: functional.linear(torch.tanh(x), torch.eye(8)), 2, 8)
    program = Pipeline.parse("fold-constants").run(program).program
    with untouched(program):
        assert Equalize().apply(program, measured(program)) is program


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda m, x: m.out(x), "nothing that could be scaled comes before it"),
        (lambda m, x: m.out(m.first(x) + m.second(x)), "its input comes from aten.add.Tensor, which takes no factors"),
        (lambda m, x: m.out(x.softmax(-1)), "its input comes from aten.softmax.int, which takes no factors"),
        (lambda m, x: m.out(m.first(x).transpose(1, 2) @ x), "its input comes from aten.matmul.default, which takes no factors"),
    ],
)
def test_others_are_left_with_the_reason(body: Callable[[Layers, Tensor], Tensor], reason: str) -> None:
    program = captured(Layers(body), 2, 8, 8)
    context = measured(program)
    Equalize().apply(program, context)
    assert any(refusal.endswith(reason) for refusal in refusals(context)), refusals(context)


def test_tables_can_be_left_whole() -> None:
    """GELU's results, from -0.17 up, are centred by one number, and so is what it reads."""
    before = captured(Layers(lambda m, x: m.out(functional.gelu(m.first(x) * 4))), 2, 5, 8)
    after = applied(Equalize(tables=False), before, measured(before))
    assert operators(after) == [LINEAR, "aten.mul.Tensor", "aten.add.Tensor", "aten.mul.Tensor", "aten.gelu", "aten.sub.Tensor", LINEAR]
    moves = (torch.ops.aten.mul.Tensor, torch.ops.aten.add.Tensor, torch.ops.aten.sub.Tensor)
    constants = [node.args[1] for node in after.graph.nodes if node.target in moves and isinstance(node.args[1], torch.fx.Node)]
    assert [tuple(after.tensors[str(constant.target)].shape) for constant in constants] == [(1,)] * 3
    data, inputs = [sample(before, 16, seed) for seed in range(4)], sample(before, 16, 99)
    found = [Pipeline.parse("quantize-dyadic{integer_only=true}").run(program, calibration=data).program for program in (before, after)]
    tables = [next(node for node in program.graph.nodes if node.target is torch.ops.fxp.lut.default).args[1] for program in found]
    assert [program.tensors[str(table.target)].shape[0] for program, table in zip(found, tables, strict=True)] == [1, 1]
    plain, moved = (difference(before.run(*inputs), program.run(*inputs)).sqnr for program in found)
    assert moved > plain


def test_without_data_it_says_so() -> None:
    with pytest.raises(CalibrationError, match="this pass needs calibration data"):
        Equalize().apply(captured(Layers(CASES["norm"][0]), 2, 5, 8), Context())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("alphas=[]", r"equalize: alphas=\[\] are not strengths; at least one, 0 to 1 each"),
        ("alphas=[1.5]", r"equalize: alphas=\[1.5\] are not strengths"),
        ("bits=1", "equalize: bits=1; 2 to 16"),
        ("percentile=50", "equalize: percentile=50; above 50, 100 at most"),
        ("strength=0.5", "unknown option 'strength'"),
    ],
)
def test_bad_options_are_refused(options: str, message: str) -> None:
    with pytest.raises((PassError, PipelineError), match=message):
        Pipeline.parse(f"equalize{{{options}}}")
