"""Values moved by noise that biases take back: where it went, the same function, and better integers where values lie between steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from decoders import classifier, prepared
from float_programs import applied, captured, measured, operators, refusals, sample, untouched
from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError, PipelineError
from fxpress_passes import Context, NoisyBias, Rotate
from fxpress_passes.contract import difference
from fxpress_passes.equalize.error import error, powers, step
from fxpress_passes.equalize.factors import Observer
from fxpress_passes.pipeline import Pipeline
from torch import Tensor, nn
from torch.nn import functional

LINEAR, GELU, NORM, ADD = "aten.linear", "aten.gelu", "aten.layer_norm", "aten.add.Tensor"
STEP = 2 * 0.17
"""Most values of gelu lie near its least one, -0.17: half a step of a grid that holds -43 to 43."""


class Clustered(nn.Module):
    """Channels that hardly move between two steps of the grid that the first one needs."""

    def __init__(self, body: Callable[[Clustered, Tensor], Tensor]) -> None:
        super().__init__()
        self.body = body
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.up, self.down, self.other = nn.Linear(8, 32), nn.Linear(32, 8), nn.Linear(32, 8)
            self.norm, self.square = nn.LayerNorm(32), nn.RMSNorm(32)
        wide = torch.zeros(32)
        wide[0] = 127 * STEP / 1.6
        self.up.weight.data *= 0.05
        self.up.weight.data[0] = 0
        self.up.weight.data[0, 0] = wide[0]
        self.up.bias.data = torch.full((32,), -0.75)
        self.norm.weight.data = 0.05 + wide
        self.norm.bias.data = torch.full((32,), -STEP / 2)
        for layer in (self.down, self.other):
            layer.weight.data.abs_()
            layer.weight.data[:, 0] /= wide[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def linear(m: Clustered, x: Tensor) -> Tensor:
    """A layer whose results lie where gelu would leave them."""
    return functional.linear(x, m.up.weight, torch.full((32,), -STEP / 2))


CASES: dict[str, tuple[Callable[[Clustered, Tensor], Tensor], list[str]]] = {
    "table": (lambda m, x: m.down(functional.gelu(m.up(x))), [LINEAR, GELU, ADD, LINEAR]),
    "rows": (lambda m, x: m.down(linear(m, x)), [LINEAR, LINEAR]),
    "norm": (lambda m, x: m.down(m.norm(m.up(x))), [LINEAR, NORM, LINEAR]),
    "norm of two": (
        lambda m, x: m.down(y := m.norm(m.up(x))) + m.other(y),
        [LINEAR, NORM, LINEAR, LINEAR, ADD],
    ),
    "norm read by others": (
        lambda m, x: torch.cat([m.down(y := m.norm(m.up(x))), y], -1),
        [LINEAR, NORM, NORM, LINEAR, "aten.cat"],
    ),
}


def _program(name: str) -> Program:
    return Pipeline.parse("fold-constants").run(captured(Clustered(CASES[name][0]), 2, 5, 8)).program


@pytest.mark.parametrize("name", CASES)
def test_before_and_expected(name: str) -> None:
    before = _program(name)
    after = applied(NoisyBias(), before, measured(before))
    assert operators(after) == CASES[name][1]


@pytest.mark.parametrize("name", ["table", "rows", "norm", "norm of two"])
def test_integers_are_nearer(name: str) -> None:
    before = _program(name)
    data, inputs = [sample(before, 16, seed) for seed in range(4)], sample(before, 16, 99)
    found = [
        Pipeline.parse(f"{text}quantize-dyadic{{integer_only=true,input_floor=0}}").run(before, calibration=data).program
        for text in ("", "noisy-bias, ")
    ]
    plain, noisy = (difference(before.run(*inputs), program.run(*inputs)).sqnr for program in found)
    assert noisy > plain + 1


@pytest.mark.parametrize("name", CASES)
def test_the_error_never_rises(name: str) -> None:
    before = _program(name)
    context = measured(before)
    found = [_error(program, context) for program in (before, NoisyBias(amplitudes=(0.01, 4.0)).apply(before, context))]
    assert found[1] <= found[0]


def _error(program: Program, context: Context) -> float:
    layer = next(node for node in program.graph.nodes if node.op == "call_function" and "down" in str(node.args[1:2]))
    observer = Observer(program, frozenset({layer.args[0].name}))
    for batch in context.evidence.calibration.batches(program):
        observer.observe(batch)
    rows, weight = observer.found[layer.args[0].name].rows, program.tensors["down.weight"].detach()
    return error(rows, [weight], powers(rows, [weight]), 8, 8)


def test_the_case_is_what_it_says() -> None:
    """The values but the first lie half a step from a code."""
    program = _program("table")
    value = next(node for node in program.graph.nodes if node.target is torch.ops.aten.gelu.default)
    observer = Observer(program, frozenset({value.name}))
    observer.observe(sample(program, 64))
    rows = observer.found[value.name].rows
    assert 0.3 < float((rows[:, 1:] / step(rows, 8)).abs().median()) < 0.7


def test_noise_passes_through_attention() -> None:
    """Heads' values take it by their rows."""
    before = prepared(classifier)
    after = NoisyBias(activation_bits=2, amplitudes=(0.1, 0.2, 0.3, 0.5, 0.7, 1.0)).apply(before, measured(before))
    assert "value.bias_1" in after.tensors
    inputs = sample(before, 3, 7)
    assert NoisyBias.promise.held(difference(before.run(*inputs), after.run(*inputs)))


def test_nothing_is_done_where_nothing_helps() -> None:
    """Values that are codes already."""
    program = captured(lambda x: functional.linear(functional.linear(torch.sign(x), torch.eye(8)), torch.eye(8)), 2, 8)
    program = Pipeline.parse("fold-constants").run(program).program
    with untouched(program):
        assert NoisyBias().apply(program, measured(program)) is program


def test_noise_comes_from_the_pipelines_seed() -> None:
    before = _program("rows")
    data = [sample(before, 8)]
    first, again, other = (Pipeline([NoisyBias()]).run(before, calibration=data, seed=seed).program.hash for seed in (1, 1, 2))
    assert first == again != other


def test_what_a_rotation_reads_is_left() -> None:
    before = _program("table")
    rotated = Rotate().apply(before, measured(before))
    assert operators(rotated) != operators(before)
    context = measured(rotated)
    after = NoisyBias().apply(rotated, context)
    assert ADD not in operators(after)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda m, x: m.down(x.repeat(1, 1, 4)), "its input comes from aten.repeat.default, which takes no constant"),
        (lambda m, x: m.up(x), "its input comes from outside, which takes no constant"),
        (lambda m, x: m.down(m.up(x).relu()), "its input comes from aten.relu.default, which takes no constant"),
        (lambda m, x: m.down(m.square(m.up(x))), "its input comes from aten.rms_norm.default, which takes no constant"),
    ],
)
def test_others_are_left_with_the_reason(body: Callable[[Clustered, Tensor], Tensor], reason: str) -> None:
    program = Pipeline.parse("fold-constants").run(captured(Clustered(body), 2, 5, 8)).program
    context = measured(program)
    NoisyBias().apply(program, context)
    assert any(refusal.endswith(reason) for refusal in refusals(context)), refusals(context)


def test_tables_can_be_left_whole() -> None:
    program = _program("table")
    context = measured(program)
    assert NoisyBias(tables=False).apply(program, context) is program
    assert refusals(context)[-1] == "gelu: its table would differ by channel; say tables=true"


@pytest.mark.parametrize("options", [{"amplitudes": (0.0, 0.5)}, {"activation_bits": 1}, {"weight_bits": 17}])
def test_options_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(PipelineError, match=next(iter(options))):
        NoisyBias(**options)  # type: ignore[arg-type]


def test_without_data_it_says_so() -> None:
    with pytest.raises(CalibrationError, match="this pass needs calibration data"):
        NoisyBias().apply(_program("rows"), Context())
