"""What linear layers read, rotated: where the matrices went, the same function, flatter values and better integers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import fxpress as fx
import pytest
import torch
from decoders import Block, classifier, decoder, prepared
from float_programs import applied, captured, measured, operators, refusals, sample, untouched
from fxpress_ir import Program
from fxpress_ir.analysis.hadamard import is_hadamard
from fxpress_ir.errors import CalibrationError, PipelineError
from fxpress_ir.ops import arguments
from fxpress_passes import Context, Rotate
from fxpress_passes.contract import difference
from fxpress_passes.equalize.error import error, powers
from fxpress_passes.equalize.factors import Observer
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.pipeline import Pipeline
from torch import Tensor, nn
from torch.nn import functional

LINEAR, GELU, BLOCKS = "aten.linear", "aten.gelu", ["aten.sym_size.int", "aten.reshape", "aten.linear", "aten.flatten.using_ints"]


class Hidden(nn.Module):
    """A hidden layer with one row far heavier than the others; `width` of them."""

    def __init__(self, between: Callable[[Tensor], Tensor] = functional.gelu, width: int = 32, heavy: float = 16.0) -> None:
        super().__init__()
        self.between = between
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.up, self.down = nn.Linear(16, width), nn.Linear(width, 8)
            self.up.weight.data[3] *= heavy
            self.down.weight.data[:, 3] /= heavy

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.between(self.up(x)))
        return y


CASES: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "inserted": (lambda: Hidden(), [LINEAR, GELU, LINEAR, LINEAR]),
    "inserted in blocks": (lambda: Hidden(width=24), [LINEAR, GELU, *BLOCKS, LINEAR]),
    "folded": (lambda: Hidden(lambda x: x), [LINEAR, LINEAR]),
    "folded behind moves": (lambda: Hidden(lambda x: x[:, 1:]), [LINEAR, "aten.slice.Tensor", "aten.slice.Tensor", LINEAR]),
}


@pytest.mark.parametrize("name", CASES)
def test_before_and_expected(name: str) -> None:
    model, expected = CASES[name]
    before = captured(model(), 2, 5, 16)
    after = applied(Rotate(), before, measured(before))
    assert operators(after) == expected
    assert sum(map(is_hadamard, after.tensors.values())) == name.startswith("inserted")


@pytest.mark.parametrize("norm", [nn.RMSNorm, nn.LayerNorm])
@pytest.mark.parametrize("body", [decoder, classifier])
def test_a_residual_stream(body: Callable[[Block, Tensor], Tensor], norm: type[nn.Module]) -> None:
    """Nothing is inserted; normalisations, LayerNorms too, have neither gain nor shift nor centring left."""
    before = prepared(body, norm)
    after = applied(Rotate(explicit=False), before, measured(before))
    assert [name.replace("layer_norm", "rms_norm") for name in operators(before)] == operators(after)
    norms = [node for node in after.graph.nodes if node.target is torch.ops.aten.rms_norm.default]
    assert [arguments(node)["weight"] for node in norms] == [None] * 3


@pytest.mark.parametrize("norm", [nn.RMSNorm, nn.LayerNorm])
def test_a_streams_integers_are_nearer(norm: type[nn.Module]) -> None:
    plain, rotated = (_sqnr(prepared(decoder, norm), text) for text in ("", "rotate{explicit=false}, "))
    assert rotated > plain + 0.5


@pytest.mark.parametrize("name", CASES)
def test_integers_are_nearer(name: str) -> None:
    plain, rotated = (_sqnr(captured(CASES[name][0](), 2, 5, 16), text) for text in ("", "rotate, "))
    assert rotated > plain + 3


def _sqnr(before: Program, text: str, bits: int = 8) -> float:
    data, inputs = [sample(before, 16, seed) for seed in range(4)], sample(before, 16, 99)
    pipeline = Pipeline.parse(f"{text}quantize-dyadic{{integer_only=true, input_floor=0, weight_bits={bits}}}")
    return difference(before.run(*inputs), pipeline.run(before, calibration=data).program.run(*inputs)).sqnr


def _inputs(program: Program, context: Context) -> dict[str, tuple[Tensor, Tensor]]:
    """Rows that the layers read which are no rotations, and their weights, by the weight's name without what was appended."""
    layers = [node for node in program.graph.nodes if node.target is torch.ops.aten.linear.default]
    observer = Observer(program, frozenset(node.args[0].name for node in layers))
    for batch in context.evidence.calibration.batches(program):
        observer.observe(batch)
    weights = {node: program.tensors[str(node.args[1].target)].detach() for node in layers}
    names = {node: str(node.args[1].target).split(".weight")[0] for node in layers}
    return {names[node]: (observer.found[node.args[0].name].rows, weight) for node, weight in weights.items() if not is_hadamard(weight)}


def _kurtosis(rows: Tensor) -> float:
    centred = rows - rows.mean()
    return float(centred.pow(4).mean() / centred.square().mean() ** 2)


def _errors(read: tuple[Tensor, Tensor]) -> list[float]:
    rows, weight = read
    return [error(rows, [weight], powers(rows, [weight]), bits, bits) for bits in (8, 4)]


@pytest.mark.parametrize("name", CASES)
def test_values_are_flatter_and_errors_smaller(name: str) -> None:
    before = captured(CASES[name][0](), 2, 5, 16)
    context = measured(before)
    found = [_inputs(program, context)["down"] for program in (before, applied(Rotate(), before, context))]
    kurtosis = [_kurtosis(rows) for rows, _ in found]
    assert kurtosis[0] > 3 * kurtosis[1]
    assert all(new < old for old, new in zip(*map(_errors, found), strict=True))


@cache
def _char_lm() -> tuple[Program, list[tuple[Tensor, ...]]]:
    entry = fx.zoo.load("char-lm")
    program = fx.capture(entry.model, entry.inputs, dynamic_shapes=entry.dynamic_shapes)
    needed = Pipeline.parse(", ".join(Rotate.needs))
    return needed.run(program).program, [(ids[:4, :64],) for (ids,) in entry.calibration[:3]]


def test_the_decoder_of_the_zoo() -> None:
    """Its gated values are heavy-tailed: each gets a rotation of its own, and a kurtosis that was in the tens falls below ten."""
    before, data = _char_lm()
    context = Context(Evidence(Calibration(data)))
    after = Rotate().apply(before, context)
    assert Rotate.promise.held(difference(before.run(*data[0]), after.run(*data[0])))
    found = [_inputs(program, context) for program in (before, after)]
    downs = [f"blocks.{number}.down" for number in range(4)]
    for down in downs:
        old, new = (_kurtosis(each[down][0]) for each in found)
        assert old > 25, down
        assert new < 10, down
        assert all(2 * b < a for a, b in zip(*(_errors(each[down]) for each in found), strict=True)), down
    assert sum(map(is_hadamard, after.tensors.values())) == 4


def test_the_decoders_integers_are_nearer() -> None:
    before, data = _char_lm()
    programs = [
        Pipeline.parse(f"{text}quantize-dyadic{{integer_only=true, input_floor=0}}").run(before, calibration=data)
        for text in ("", "rotate, ")
    ]
    wanted = before.run(*data[0])
    plain, rotated = (difference(wanted, result.program.run(*data[0])).sqnr for result in programs)
    assert rotated > plain + 2


def test_nothing_is_done_where_nothing_helps() -> None:
    """Signs alone: every channel is as wide as it can be, and a weight that the grids hold exactly."""
    program = captured(lambda x: functional.linear(torch.sign(x), torch.eye(8)), 2, 8)
    program = Pipeline.parse("fold-constants").run(program).program
    with untouched(program):
        assert Rotate().apply(program, measured(program)) is program


def test_a_program_without_layers_needs_no_data() -> None:
    program = captured(lambda x: x.relu(), 2, 8)
    assert Rotate().apply(program, Context()) is program


def test_a_second_run_inserts_nothing() -> None:
    before = captured(Hidden(), 2, 5, 16)
    once = Rotate().apply(before, measured(before))
    assert Rotate().apply(once, measured(once)) is once


def test_signs_come_from_the_pipelines_seed() -> None:
    before = captured(Hidden(), 2, 5, 16)
    data = [sample(before, 8)]
    first, again, other = (Pipeline([Rotate()]).run(before, calibration=data, seed=seed).program.hash for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("item", "model", "reason"),
    [
        (
            Rotate(explicit=False),
            Hidden(),
            "linear_1: a rotation in front of it would be a layer of its own; say explicit=true",
        ),
        (Rotate(), Hidden(width=25), "linear_1: no Hadamard matrix multiplies its 25 channels, an odd number"),
        (
            Rotate(),
            nn.Sequential(nn.RMSNorm(16), nn.Linear(16, 8)),
            "input_1: its residual stream is not rotated: it comes from an input, which takes no matrix",
        ),
    ],
)
def test_others_are_left_with_the_reason(item: Rotate, model: nn.Module, reason: str) -> None:
    program = captured(model, 2, 5, 16)
    context = measured(program)
    assert item.apply(program, context) is program
    assert reason in refusals(context)


def test_streams_can_be_left() -> None:
    before = prepared(decoder)
    after = Rotate(residual=False).apply(before, measured(before))
    norms = [node for node in after.graph.nodes if node.target is torch.ops.aten.rms_norm.default]
    assert all(arguments(node)["weight"] is not None for node in norms)


@pytest.mark.parametrize(("options", "reason"), [({"draws": 0}, "draws=0"), ({"activation_bits": 1}, "1"), ({"weight_bits": 17}, "17")])
def test_options_are_checked(options: dict[str, int], reason: str) -> None:
    with pytest.raises(PipelineError, match=reason):
        Rotate(**options)  # type: ignore[arg-type]


def test_equalizing_comes_first() -> None:
    with pytest.raises(PipelineError, match="equalize comes after rotate"):
        Pipeline.parse("rotate, equalize")


def test_without_data_it_says_so() -> None:
    with pytest.raises(CalibrationError, match="this pass needs calibration data"):
        Rotate().apply(captured(Hidden(), 2, 5, 16), Context())
