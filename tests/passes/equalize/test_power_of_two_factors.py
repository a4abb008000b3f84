"""Power-of-two factors in front of normalisations: the rewritten graph, the same function, nearer integers, and where there are none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from float_programs import applied, captured, measured, operators, refusals, sample, untouched
from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError, PipelineError
from fxpress_ir.ops import arguments
from fxpress_passes import Context, PowerOfTwoFactors
from fxpress_passes.contract import difference
from fxpress_passes.pipeline import Pipeline
from stretched import WideNorm
from torch import Tensor, fx, nn

LINEAR, SLICE = "aten.linear", "aten.slice.Tensor"
NORMS = {nn.RMSNorm: "aten.rms_norm", nn.LayerNorm: "aten.layer_norm"}


class Wide(WideNorm):
    """`body` of the parts of a net with two wide channels."""

    def __init__(self, body: Callable[[Wide, Tensor], Tensor], norm: type[nn.Module] = nn.RMSNorm) -> None:
        super().__init__(norm)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def _norms(program: Program) -> list[fx.Node]:
    return [node for node in program.graph.nodes if str(node.target).removesuffix(".default") in NORMS.values()]


@pytest.mark.parametrize("norm", NORMS)
def test_before_and_expected(norm: type[nn.Module]) -> None:
    before = captured(WideNorm(norm), 2, 16)
    after = applied(PowerOfTwoFactors(), before, measured(before))
    assert operators(before) == [LINEAR, NORMS[norm], LINEAR]
    assert operators(after) == [LINEAR, NORMS[norm], SLICE, LINEAR]
    (node,) = _norms(after)
    assert arguments(node)["normalized_shape"] == [126 + 2 * 4**3]


def test_the_channels_are_divided_exactly() -> None:
    """The first rows of an RMSNorm's layer are the old ones, the two wide ones over 8."""
    before = captured(WideNorm(), 2, 16)
    after = PowerOfTwoFactors().apply(before, measured(before))
    old, new = (
        next(tensor for tensor in program.tensors.values() if tensor.dim() == 2 and tensor.shape[1] == 16) for program in (before, after)
    )
    assert torch.equal(new[2:128], old[2:])
    assert torch.equal(new[:2] * 8, old[:2])


def test_several_normalisations_of_one_layer_share_the_factors() -> None:
    before = captured(Wide(lambda m, x: m.down(m.norm(y := m.up(x))) + m.down(nn.functional.rms_norm(y, [128], m.norm.weight * 2))), 2, 16)
    before = Pipeline.parse("fold-constants").run(before).program
    after = applied(PowerOfTwoFactors(), before, measured(before))
    first, second = _norms(after)
    assert first.args[0] is second.args[0]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("options", "least"), [("", 2.0), ("{largest=4, growth=6}", 6.0)])
def test_integers_are_nearer(norm: type[nn.Module], options: str, least: float) -> None:
    before = captured(WideNorm(norm), 2, 16)
    data, inputs = [sample(before, 64, seed) for seed in range(4)], sample(before, 256, 99)
    found = [
        Pipeline.parse(f"{text}quantize-dyadic{{integer_only=true}}").run(before, calibration=data).program
        for text in ("", f"power-of-two-factors{options}, ")
    ]
    assert [program.stage for program in found] == ["integer", "integer"]
    plain, finer = (difference(before.run(*inputs), program.run(*inputs)).sqnr for program in found)
    assert finer > plain + least


def test_where_channels_are_alike_nothing_is_done() -> None:
    program = captured(WideNorm(wide=1.0), 2, 16)
    context = measured(program)
    with untouched(program):
        assert PowerOfTwoFactors().apply(program, context) is program
    assert refusals(context) == ["rms_norm: no factors up to 2**3 gain 0.5 dB"]


def test_copies_stay_below_what_growth_allows() -> None:
    program = captured(WideNorm(), 2, 16)
    after = PowerOfTwoFactors(growth=1.5).apply(program, measured(program))
    assert arguments(_norms(after)[0])["normalized_shape"] == [126 + 2 * 4**2]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda m, x: m.down(m.norm(y := m.up(x)) + y), "what it reads is read by others too, which would see other channels"),
        (lambda m, x: m.down(m.norm(m.up(x).tanh())), "what it reads comes from aten.tanh.default, not from the rows of a linear layer"),
        (lambda m, x: m.norm(m.up(x)), "its result leaves the program, in 16 bits, of which a part of another would keep 8"),
        (lambda m, x: m.down(nn.functional.rms_norm(m.up(x), [128], m.norm.weight * x.mean())), "its gain is computed, not constant"),
        (
            lambda m, x: nn.functional.rms_norm(m.up(x).unflatten(-1, (4, 32)), [4, 32]).flatten(1),
            "it normalises over more than the last dimension, or over a symbolic one",
        ),
    ],
)
def test_others_are_left_with_the_reason(body: Callable[[Wide, Tensor], Tensor], reason: str) -> None:
    program = captured(Wide(body), 2, 16)
    context = measured(program)
    with untouched(program):
        assert PowerOfTwoFactors().apply(program, context) is program
    assert refusals(context) == [f"rms_norm: {reason}"]


@pytest.mark.parametrize(
    ("options", "message"),
    [("largest=0", "power-of-two-factors: largest=0; 1 to 6"), ("largest=7", "largest=7; 1 to 6"), ("growth=1", "growth=1; above 1")],
)
def test_bad_options_are_refused(options: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        Pipeline.parse(f"power-of-two-factors{{{options}}}")


def test_without_data_it_says_so() -> None:
    with pytest.raises(CalibrationError, match="this pass needs calibration data"):
        PowerOfTwoFactors().apply(captured(WideNorm(), 2, 16), Context())
