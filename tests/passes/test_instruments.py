"""Between two passes every program is verified, measured and compared; a pass that breaks a rule is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import pytest
import torch
from float_programs import captured, sample
from fxpress_ir import Edit, Program
from fxpress_ir.errors import CalibrationError, PassError
from fxpress_passes import Close, Context, Exact, Lossy, Pass, Promise
from fxpress_passes.contract import difference
from fxpress_passes.instruments import Compare, Size, Step, Verify
from fxpress_passes.pipeline import Pipeline
from torch import fx, nn

_aten, _fxp = torch.ops.aten, torch.ops.fxp
Change = Callable[[Edit, fx.Node], fx.Node]


@lru_cache
def _program() -> Program:
    """-relu(linear(x)) [batch, 4]: holds -0, from which +0 has to be told."""
    linear = nn.Linear(4, 4)

    class Negative(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = linear

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = -self.linear(x).relu()
            return result

    return captured(Negative(), 1, 4)


@dataclass(frozen=True)
class Replace(Pass):
    """Puts what `change` makes of the output in its place."""

    name: ClassVar[str] = "replace"
    promise: ClassVar[Promise] = Exact()
    change: Change = lambda edit, old: old
    stage: str = "float"

    def apply(self, program: Program, context: Context) -> Program:
        edit = program.edit()
        old = edit.here(program.outputs()[0])
        with edit.graph.inserting_before(edit.graph.output_node()):
            new = self.change(edit, old)
        edit.graph.output_node().args = ((new,),)
        return edit.finish(stage=self.stage)

    def __str__(self) -> str:
        return self.name


class ReplaceClosely(Replace):
    promise: ClassVar[Promise] = Close(1e-3, "any")


class ReplaceLossily(Replace):
    promise: ClassVar[Promise] = Lossy(40.0)


def _looked(item: Pass) -> Step:
    """The step after verify and compare have looked at the pass's result."""
    program = _program()
    after = item.apply(program, Context())
    step = Step(item.name, item.promise)
    for instrument in (Verify(), Compare(sample(program, 16), program)):
        instrument.look(step, item, program, after)
    return step


def _call(target: Callable[..., object], *rest: object) -> Change:
    return lambda edit, old: edit.call(target, old, *rest)


FLATTEN = _call(_aten.reshape.default, [-1])
FAKE = _call(_fxp.fake_quantize.default, 0.1, -128, 127)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (Replace(_call(_aten.mul.Tensor, 1.0001)), "replace: promised exact, but outputs moved by 0.0001 of"),
        (Replace(_call(_aten.add.Tensor, 0)), "replace: promised exact, but outputs moved by 0 of"),
        (Replace(_call(_aten.to.dtype, torch.float64)), "replace: promised exact, but outputs moved by 0 of"),
        (ReplaceClosely(_call(_aten.mul.Tensor, 1.01)), "replace: promised close 0.001 (any), but outputs moved by 0.01 of"),
        (ReplaceLossily(FLATTEN), "replace: outputs have shapes [[64]], had [[16, 4]] before"),
        (Replace(FAKE), "replace: its result breaks a rule: float program, fake_quantize_default: an fxp operator in a float program"),
        (Replace(FAKE, stage="integer"), "replace: its result breaks a rule: integer program, "),
        (ReplaceLossily(FAKE, stage="simulated"), "replace: its result is a simulated program, not a float one"),
    ],
)
def test_a_broken_promise_and_a_broken_rule_are_faults_of_the_named_pass(item: Pass, message: str) -> None:
    with pytest.raises(PassError) as caught:
        _looked(item)
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith("; this is a fault of the pass")


@pytest.mark.parametrize("item", [Replace(_call(_aten.mul.Tensor, 1)), ReplaceClosely(_call(_aten.mul.Tensor, 1.0005))])
def test_a_kept_promise_is_noted(item: Pass) -> None:
    step = _looked(item)
    assert step.promise_held
    assert step.against_previous == step.against_input


def test_a_missed_floor_is_noted_not_raised() -> None:
    step = _looked(ReplaceLossily(_call(_aten.mul.Tensor, 1.1)))
    assert step.promise_held is False
    assert step.against_previous is not None
    assert step.against_previous.sqnr == pytest.approx(20.0, abs=0.01)  # a tenth of the signal is noise; float32 rounding


def test_differences_are_against_the_previous_program_and_against_the_first() -> None:
    program, batch = _program(), sample(_program(), 16)
    scale = ReplaceClosely(_call(_aten.mul.Tensor, 1.0005))
    once = scale.apply(program, Context())
    twice = scale.apply(once, Context())
    compare, steps = Compare(batch, program), [Step("one", scale.promise), Step("two", scale.promise), Step("idle", scale.promise)]
    for step, before, after in zip(steps, (program, once, twice), (once, twice, twice), strict=True):
        compare.look(step, scale, before, after)
    outputs = [item.run(*batch) for item in (program, once, twice)]
    assert [step.against_previous for step in steps] == [difference(*outputs[:2]), difference(*outputs[1:]), None]
    assert [step.against_input for step in steps] == [
        difference(outputs[0], outputs[1]), difference(outputs[0], outputs[2]), difference(outputs[0], outputs[2]),
    ]  # fmt: skip
    assert steps[2].promise_held is None


def test_size_counts_weights_and_products_before_and_after() -> None:
    program = _program()
    after = Replace(lambda edit, old: edit.call(_aten.mul.Tensor, old, edit.add_tensor("ones", torch.ones(4)))).apply(program, Context())
    step = Step("replace", Exact())
    Size().look(step, Replace(), program, after)
    assert step.weight_bytes == (80, 96)  # a 4x4 weight and a bias of 4, then 4 more
    assert step.macs == (16, 16)


def test_verify_leaves_alone_what_no_pass_touched() -> None:
    broken = Replace(FAKE).apply(_program(), Context())
    Verify().look(Step("idle", Exact()), Replace(), broken, broken)


def test_without_calibration_a_rule_is_still_held() -> None:
    with pytest.raises(PassError, match="an fxp operator in a float program"):
        Pipeline([Replace(FAKE)]).run(_program())


class Divided(nn.Module):
    """0 / 0 in the second row, and x."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x / x).softmax(-1) + x


@pytest.mark.parametrize(("factor", "error"), [(1.0, CalibrationError), (1.5, PassError)])
def test_nan_before_a_pass_is_a_fault_of_the_data_where_all_else_holds(factor: float, error: type[Exception]) -> None:
    """A pass that gives numbers instead of NaN; with another factor it moves the finite outputs, too."""
    program = captured(Divided(), 2, 3)
    item = ReplaceClosely(lambda edit, old: edit.call(_aten.nan_to_num.default, edit.call(_aten.mul.Tensor, old, factor), 0.0))
    step, x = Step(item.name, item.promise), torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 2.0]])
    with pytest.raises(error) as caught:
        Compare((x,), program).look(step, item, program, item.apply(program, Context()))
    if error is CalibrationError:
        assert str(caught.value).startswith(
            "replace, node div: before replace already 3 of 6 output values are NaN or infinite on the first calibration batch, "
            "NaN first in div; repair the model or take the samples out"
        )
    else:
        assert str(caught.value).endswith("; this is a fault of the pass")
