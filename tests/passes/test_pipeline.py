"""A pipeline checks order and stages before anything runs, puts in what is needed, and reports what it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from float_programs import captured, residual_program, sample, untouched
from fxpress_ir import Program, text
from fxpress_ir.errors import CalibrationError, PassError, PipelineError, ProgramError
from fxpress_passes import (
    PASSES,
    Context,
    EliminateDeadCode,
    Exact,
    FoldBatchNorm,
    FoldConstants,
    Lossy,
    Pass,
    PlaceQuantizers,
    Promise,
    QuantizeDyadic,
    RemoveNoops,
    ToInteger,
)
from fxpress_passes.contract import ANOTHER, difference
from fxpress_passes.instruments import Step
from fxpress_passes.parse import find
from fxpress_passes.pipeline import Pipeline, Result
from torch import Tensor

INSERTED = [name for name in PlaceQuantizers.needs if name != "fold-constants"]
STEPS = ["fold-constants", "fold-batch-norm", *INSERTED, "place-quantizers", "to-integer"]
"""What the usual pipeline runs, with what its passes need."""
USUAL = "fold-constants, fold-batch-norm, quantize-dyadic"


@dataclass(frozen=True)
class Idle(Pass):
    """Does nothing, and remembers that it was asked."""

    name: ClassVar[str] = "idle"
    promise: ClassVar[Promise] = Exact()
    takes: ClassVar[tuple[str, ...]] = ("float", "simulated", "integer")
    asked: ClassVar[list[Context]] = []

    def apply(self, program: Program, context: Context) -> Program:
        self.asked.append(context)
        return program


@pytest.fixture(autouse=True)
def _nothing_asked() -> None:
    Idle.asked.clear()


@pytest.fixture(scope="module")
def batches() -> list[tuple[Tensor, ...]]:
    return [sample(residual_program(), 4, seed) for seed in range(3)]


@pytest.fixture(scope="module")
def result(batches: list[tuple[Tensor, ...]]) -> Result:
    with untouched(residual_program()):
        return Pipeline.parse(USUAL).run(residual_program(), calibration=batches)


@pytest.mark.parametrize(
    ("passes", "message"),
    [
        ([PlaceQuantizers(), FoldBatchNorm()], "pipeline: fold-batch-norm comes after place-quantizers; put fold-batch-norm first"),
        ([QuantizeDyadic(), Idle(), FoldConstants()], "pipeline: fold-constants comes after place-quantizers; put fold-constants first"),
        ([QuantizeDyadic(), PlaceQuantizers()], "pipeline: place-quantizers comes after to-integer; put place-quantizers first"),
        ([FoldBatchNorm], "is not a Pass; pass instances, e.g. FoldBatchNorm()"),
        ("fold-batch-norm", "pipeline: 'f' is not a Pass; pass instances, e.g. FoldBatchNorm()"),
        (FoldBatchNorm(), "pipeline: FoldBatchNorm(rewrite=True) is not a list of passes; give a list, e.g. [FoldBatchNorm()]"),
    ],
)
def test_what_cannot_be_a_pipeline_is_an_error_at_once(passes: Any, message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        Pipeline(passes)
    assert str(caught.value).endswith(message)


@pytest.mark.parametrize(
    ("passes", "message"),
    [
        ([Idle(), QuantizeDyadic(), RemoveNoops()], "remove-noops: takes float programs, but the one that it would get is integer"),
        ([Idle(), ToInteger()], "to-integer: takes simulated programs, but the one that it would get is float"),
        ([Idle(), PlaceQuantizers(), RemoveNoops()], "remove-noops: takes float programs, but the one that it would get is simulated"),
    ],
)
def test_a_stage_that_a_pass_does_not_take_is_an_error_before_anything_runs(passes: list[Pass], message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        Pipeline(passes).run(residual_program())
    assert str(caught.value) == f"{message}; move it to where the program still is one"
    assert not Idle.asked


def test_sums_are_taken_apart_and_what_is_needed_is_put_in() -> None:
    schedule = Pipeline([FoldBatchNorm(), QuantizeDyadic(4)]).schedule("float")
    needed = [(find(name, PASSES)(), True) for name in PlaceQuantizers.needs]
    assert schedule == [(FoldBatchNorm(), False), *needed, (PlaceQuantizers(4), False), (ToInteger(), False)]


def test_what_is_needed_is_put_in_only_where_it_is_missing() -> None:
    schedule = Pipeline([RemoveNoops(), FoldBatchNorm(), PlaceQuantizers()]).schedule("float")
    needed = [(find(name, PASSES)(), True) for name in PlaceQuantizers.needs if name != "remove-noops"]
    assert schedule == [(RemoveNoops(), False), (FoldBatchNorm(), False), *needed, (PlaceQuantizers(), False)]


def test_a_need_that_nobody_knows_is_an_error() -> None:
    class Needy(Idle):
        needs: ClassVar[tuple[str, ...]] = ("unheard-of",)

    with pytest.raises(PipelineError, match="unknown pass 'unheard-of'"):
        Pipeline([Needy()]).run(residual_program())
    assert not Idle.asked


def test_a_pipeline_starts_from_a_program_of_any_stage(result: Result, batches: list[tuple[Tensor, ...]]) -> None:
    again = Pipeline([EliminateDeadCode(), Idle()]).run(result.program, calibration=batches)
    assert again.program is result.program
    assert [step.fired for step in again.report.steps] == [False, False]


def test_an_empty_pipeline_gives_the_program_back() -> None:
    result = Pipeline([]).run(residual_program())
    assert result.program is residual_program()
    assert (result.report.steps, str(result.report), result.report.quality) == ((), "", None)


def test_history_names_what_fired_with_its_options(batches: list[tuple[Tensor, ...]]) -> None:
    ran = Pipeline.parse("fold-constants, fold-batch-norm, quantize-dyadic{weight_bits=4}").run(residual_program(), batches)
    assert ran.program.history == ("fold-constants", "fold-batch-norm", "remove-noops", "place-quantizers{weight_bits=4}", "to-integer")
    assert residual_program().history == ()
    assert Pipeline([Idle()]).run(ran.program).program.history == ran.program.history


def test_the_report_says_what_each_step_did(result: Result) -> None:
    steps = result.report.steps
    assert [step.name for step in steps] == STEPS
    assert [step.name for step in steps if step.inserted] == INSERTED
    assert [step.stage for step in steps] == ["float"] * (len(STEPS) - 2) + ["simulated", "integer"]
    assert [step.name for step in steps if step.fired] == [STEPS[0], STEPS[1], "remove-noops", *STEPS[-2:]]
    assert all(step.promise_held and step.seconds >= 0 for step in steps if step.fired)
    assert steps[-1].promise == ToInteger.promise


def test_the_reports_sizes_are_those_of_the_programs(result: Result) -> None:
    steps = result.report.steps
    before, after = residual_program().cost(), result.program.cost()
    assert (steps[0].weight_bytes[0], steps[-1].weight_bytes[1]) == (before.weight_bytes, after.weight_bytes)
    assert (steps[0].macs[0], steps[-1].macs[1]) == (before.macs, after.macs)
    assert all(one.weight_bytes[1] == two.weight_bytes[0] for one, two in pairwise(steps))
    assert after.weight_bytes * 3 < before.weight_bytes


def test_the_reports_differences_are_those_of_the_first_batch(result: Result, batches: list[tuple[Tensor, ...]]) -> None:
    steps = result.report.steps
    assert steps[0].against_previous is not None
    assert steps[0].against_previous.equal  # fold-constants
    (original,), (integer,) = (program.run(*batches[0]) for program in (residual_program(), result.program))
    noise = float((original.double() - integer.double()).square().sum() / original.double().square().sum())
    assert steps[-1].against_input is not None
    assert 10 ** (-steps[-1].against_input.sqnr / 10) == pytest.approx(noise, rel=1e-9)  # float64 sums in another order


def test_without_calibration_nothing_is_compared() -> None:
    (step,) = Pipeline([FoldBatchNorm()]).run(residual_program()).report.steps
    assert (step.against_previous, step.against_input, step.promise_held) == (None, None, None)


def test_refusals_stand_in_the_report() -> None:
    program = captured(lambda x: x.exp() * torch.ones(2, 600), 1, 2, 600)
    report = Pipeline([FoldConstants(max_growth=1000)]).run(program).report
    assert [refused.node for refused in report.steps[0].refusals] == ["ones"]
    assert "\n    left alone ones: folding would add 4800 bytes; raise max_growth above 1000" in str(report)


def test_the_report_prints_a_line_a_step(result: Result) -> None:
    lines = str(result.report).splitlines()
    assert len(lines) == len(result.report.steps)
    assert lines[2].startswith("remove-noops: done, inserted, ")
    assert " dB against the input [lossy, at least 25 dB]" in lines[-1]


def test_a_missed_floor_is_noted_not_raised(batches: list[tuple[Tensor, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PlaceQuantizers, "promise", Lossy(200.0))
    report = Pipeline.parse(USUAL).run(residual_program(), calibration=batches).report
    assert [step.promise_held for step in report.steps if step.fired] == [True, True, True, False, True]
    assert "[lossy, at least 200 dB]  BELOW ITS FLOOR" in str(report).splitlines()[-2]


def test_evaluate_is_asked_before_and_after(result: Result, batches: list[tuple[Tensor, ...]]) -> None:
    def evaluate(run: Callable[..., tuple[Tensor, ...]]) -> float:
        return float(run(*batches[0])[0].double().sum())

    quality = Pipeline.parse(USUAL).run(residual_program(), batches, evaluate).report.quality
    assert quality == (evaluate(residual_program().run), evaluate(result.program.run))
    assert quality[0] != quality[1]


def test_progress_is_called_for_each_pass_and_each_calibration_batch(batches: list[tuple[Tensor, ...]]) -> None:
    seen: list[tuple[str, int, int]] = []
    Pipeline.parse(USUAL).run(residual_program(), batches, progress=lambda *step: seen.append(step))
    assert [step for step in seen if step[0] != "calibrating"] == [(name, place, len(STEPS)) for place, name in enumerate(STEPS)]
    assert [step for step in seen if step[0] == "calibrating"] == [("calibrating", done, 3) for done in (1, 2, 3)]


def test_passes_get_the_seed_and_refusals_of_their_own() -> None:
    Pipeline([Idle(), Idle()]).run(residual_program(), seed=7)
    assert [context.seed for context in Idle.asked] == [7, 7]
    assert Idle.asked[0].refusals is not Idle.asked[1].refusals


def test_what_passes_take_from_weights_is_told_to_those_behind_them() -> None:
    result = Pipeline.parse("fold-batch-norm, sparsify{score=magnitude}, idle", [*PASSES, Idle]).run(residual_program())
    ((before, after),) = Idle.asked[-1].losses
    assert [entry.partition("{")[0] for entry in before.history] == ["fold-batch-norm"]
    assert after is result.program
    Pipeline.parse("sparsify{score=magnitude}, idle", [*PASSES, Idle]).run(after)
    assert Idle.asked[-1].losses == ()


def test_a_pass_that_measures_needs_calibration() -> None:
    with pytest.raises(CalibrationError, match=r"give Pipeline\.run calibration=batches"):
        Pipeline.parse(USUAL).run(residual_program())


def test_an_error_says_in_a_note_which_pass_ran(batches: list[tuple[Tensor, ...]]) -> None:
    class Careless(Idle):
        name: ClassVar[str] = "careless"

        def apply(self, program: Program, context: Context) -> Program:
            edit = program.edit()
            convolutions = edit.graph.find_nodes(op="call_function", target=torch.ops.aten.conv2d.default)
            convolutions[0].replace_input_with(convolutions[0].args[0], convolutions[-1])
            return edit.finish()

    with pytest.raises(ProgramError, match="the edited graph is malformed") as caught:
        Pipeline([Idle(), Careless()]).run(residual_program(), batches)
    assert caught.value.__notes__ == ["while running careless"]


def test_a_one_shot_generator_calibrates_like_a_list(result: Result, batches: list[tuple[Tensor, ...]]) -> None:
    def once() -> Iterator[tuple[Tensor, ...]]:
        yield from batches

    assert Pipeline.parse(USUAL).run(residual_program(), calibration=once()).program.hash == result.program.hash


def test_dump_writes_the_text_of_every_program(tmp_path: Path, result: Result, batches: list[tuple[Tensor, ...]]) -> None:
    folder = tmp_path / "deep" / "dump"
    Pipeline.parse(USUAL).run(residual_program(), batches, dump=folder)
    names = ["input", *STEPS]
    assert sorted(file.name for file in folder.iterdir()) == [f"{place:02}-{name}.txt" for place, name in enumerate(names)]
    assert (folder / "00-input.txt").read_text() == text(residual_program()) + "\n"
    assert (folder / f"{len(STEPS):02}-to-integer.txt").read_text() == text(result.program) + "\n"


def test_a_dump_that_cannot_be_written_is_an_error_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PassError, match=r"cannot write: .*; dump into a writable folder"):
        Pipeline([Idle()]).run(residual_program(), dump=tmp_path / "file")
    assert not Idle.asked


def test_instruments_of_ones_own_look_last(batches: list[tuple[Tensor, ...]]) -> None:
    class Watch:
        seen: ClassVar[list[tuple[str, bool, bool]]] = []

        def look(self, step: Step, done: Pass, before: Program, after: Program) -> None:
            self.seen.append((done.name, before is after, step.against_input is not None))

    Pipeline([FoldBatchNorm(), Idle()]).run(residual_program(), batches, instruments=[Watch()])
    assert Watch.seen == [("fold-batch-norm", False, True), ("idle", True, True)]


def test_a_pass_of_several_stages_passes_through(batches: list[tuple[Tensor, ...]]) -> None:
    ran = Pipeline([Idle(), FoldConstants(), FoldBatchNorm(), PlaceQuantizers(), Idle(), ToInteger(), Idle()]).run(
        residual_program(), batches
    )
    assert len(Idle.asked) == 3
    assert [step.stage for step in ran.report.steps if step.name == "idle"] == ["float", "simulated", "integer"]


def test_what_brings_another_function_is_what_later_passes_recover_to() -> None:
    """An adapter from a folder is no loss to be made up for."""
    seen: list[Program | None] = []

    @dataclass(frozen=True)
    class Adapt(Pass):
        name: ClassVar[str] = "adapt"
        promise: ClassVar[Promise] = ANOTHER

        def apply(self, program: Program, context: Context) -> Program:
            seen.append(context.original)
            edit = program.edit()
            name = next(name for name, value in program.tensors.items() if value.is_floating_point())
            edit.tensors[name] = program.tensors[name].detach() + 1
            return edit.finish()

    @dataclass(frozen=True)
    class Look(Pass):
        name: ClassVar[str] = "look"
        promise: ClassVar[Promise] = Exact()

        def apply(self, program: Program, context: Context) -> Program:
            seen.append(context.original)
            return program

    program = residual_program()
    result = Pipeline([Look(), Adapt(), Look()]).run(program, [sample(program, 4)])
    hashes = [one.hash for one in seen if one is not None]
    assert hashes == [program.hash, program.hash, result.program.hash]
    assert result.original is result.program
    first, adapt, last = result.report.steps
    assert (first.held_to, adapt.held_to, last.held_to) == ("the input", "the input", "the result of adapt")
    assert first.against_input == last.against_input == difference(program.run(*sample(program, 4)), program.run(*sample(program, 4)))
    assert adapt.against_input == adapt.against_previous != last.against_input
    assert "dB against the result of adapt" in str(result.report).splitlines()[-1]
    assert Pipeline([Look()]).run(program).original is program
