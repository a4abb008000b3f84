"""A run that was interrupted goes on after its last batch and ends where an undisturbed one does; other data are noticed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from float_programs import captured, residual_program, sample
from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError
from fxpress_passes import Context, PlaceQuantizers
from fxpress_passes.evidence import Batch, Calibration, Evidence, States
from fxpress_passes.evidence import ranges as measuring
from fxpress_passes.evidence.state import State
from fxpress_passes.pipeline import Pipeline

PASSES = "fold-constants, fold-batch-norm, quantize-dyadic{{ranges={}}}"
COUNT = 5


class PowerCutError(Exception):
    """What the data raise."""


class Data:
    """Batches of several sizes that can be walked any number of times; a walk raises before batch `stop`."""

    def __init__(self, stop: int = COUNT + 1, count: int = COUNT, seed: int = 0) -> None:
        self.batches = [sample(residual_program(), 2 + place % 3, seed + place) for place in range(count)]
        self.stop = stop

    def __iter__(self) -> Iterator[Batch]:
        for place, batch in enumerate(self.batches):
            if place == self.stop:
                raise PowerCutError
            yield batch


def _once(data: Data) -> Iterator[Batch]:
    yield from data


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """Every batch that a model was run on to measure it."""
    batches: list[Batch] = []
    observe = measuring.Observer.observe

    def noting(self: measuring.Observer[Any], batch: Batch) -> None:
        observe(self, batch)
        batches.append(batch)

    monkeypatch.setattr(measuring.Observer, "observe", noting)
    return batches


def _evidence(data: Iterable[Any], folder: Path, seconds: float = 1e9) -> Evidence:
    return Evidence(Calibration(data), states=States(folder, seconds))


def _state(folder: Path, kind: str = "ranges", program: Program | None = None) -> State[Any]:
    state = States(folder).read(kind, (program or residual_program()).hash)
    assert state is not None
    return state


def _equal(kind: str, one: Any, other: Any) -> bool:
    if kind == "ranges":
        return dict(one) == dict(other)
    same = [np.array_equal(one[name].counts, other[name].counts) and one[name].reach == other[name].reach for name in one]
    return one.keys() == other.keys() and all(same) and all(one[name].seen == other[name].seen for name in one)


@pytest.mark.parametrize("wrapped", [list, _once], ids=["re-iterable", "one-shot"])
@pytest.mark.parametrize("kind", ["ranges", "histograms"])
@pytest.mark.parametrize("stop", range(COUNT))
def test_it_goes_on_after_the_last_batch(stop: int, kind: str, wrapped: Any, tmp_path: Path, measured: list[Batch]) -> None:
    """Whatever the batch before which the walk was interrupted."""
    broken: Any = _once(Data(stop)) if wrapped is _once else Data(stop)
    with pytest.raises(PowerCutError):
        getattr(_evidence(broken, tmp_path), kind)(residual_program())
    assert len(measured) == stop
    if stop:
        assert (_state(tmp_path, kind).batches, _state(tmp_path, kind).complete) == (stop, False)
    found = getattr(_evidence(wrapped(Data()), tmp_path), kind)(residual_program())
    assert len(measured) == COUNT
    assert _equal(kind, found, getattr(Evidence(Calibration(Data())), kind)(residual_program()))
    assert (_state(tmp_path, kind).batches, _state(tmp_path, kind).complete) == (COUNT, True)


@pytest.mark.parametrize("ranges", ["minmax", "mse"])
def test_an_interrupted_pipeline_ends_with_the_same_plan_and_program(ranges: str, tmp_path: Path) -> None:
    pipeline, program = Pipeline.parse(PASSES.format(ranges)), residual_program()
    undisturbed = pipeline.run(program, Data())
    for stop in (2, 4):
        with pytest.raises(PowerCutError):
            pipeline.run(program, Data(stop), state=tmp_path)
    resumed = pipeline.run(program, Data(), state=tmp_path)
    assert resumed.program.hash == undisturbed.program.hash
    passes = [item for item, _ in pipeline.schedule("float")]
    before = Pipeline(passes[: [item.name for item in passes].index("place-quantizers")]).run(program).program
    plans = [
        PlaceQuantizers(ranges=ranges).decide(before, Context(evidence))
        for evidence in (Evidence(Calibration(Data())), Evidence(None, states=States(tmp_path)))
    ]
    assert plans[0] == plans[1]


def test_a_second_run_measures_nothing_again(tmp_path: Path, measured: list[Batch]) -> None:
    first = _evidence(Data(), tmp_path).ranges(residual_program())
    assert len(measured) == COUNT
    assert _evidence(Data(), tmp_path).ranges(residual_program()) == first
    assert len(measured) == COUNT


def test_data_that_grew_are_measured_from_where_they_grew(tmp_path: Path, measured: list[Batch]) -> None:
    _evidence(Data(count=3), tmp_path).ranges(residual_program())
    found = _evidence(Data(), tmp_path).ranges(residual_program())
    assert len(measured) == COUNT
    assert found == Evidence(Calibration(Data())).ranges(residual_program())


@pytest.mark.parametrize(("seconds", "written"), [(0.0, [1, 2, 3]), (1e9, [])])
def test_a_state_is_written_on_the_way(seconds: float, written: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run that is killed leaves behind: nothing is raised that could be caught."""
    found: list[int] = []
    write = States.write

    def noting(self: States, state: State[Any]) -> None:
        found.append(state.batches)
        write(self, state)

    monkeypatch.setattr(States, "write", noting)
    with pytest.raises(PowerCutError):
        _evidence(Data(3), tmp_path, seconds).ranges(residual_program())
    assert found == (written or [3])


def test_a_batch_that_fails_halfway_is_not_in_the_state(tmp_path: Path) -> None:
    """Its inputs are finite, a value in the middle of the model is not."""
    program = captured(lambda x: (x + 1).log(), 1, 2)
    good, bad = torch.tensor([[1.0, 2.0]]), torch.tensor([[9.0, -1.0]])
    with pytest.raises(CalibrationError, match="log: the value is NaN or infinite"):
        _evidence([good, bad], tmp_path).ranges(program)
    state = _state(tmp_path, program=program)
    assert (state.batches, state.found["x"].high) == (1, 2.0)
    repaired = [good, bad.abs()]
    assert _evidence(repaired, tmp_path).ranges(program) == Evidence(Calibration(repaired)).ranges(program)


def test_programs_and_kinds_have_states_of_their_own(tmp_path: Path, measured: list[Batch]) -> None:
    evidence, other = _evidence(Data(), tmp_path), captured(lambda x: x.relu() * 2, 1, 3, 8, 8)
    evidence.ranges(residual_program())
    evidence.histograms(residual_program())
    evidence.ranges(other)
    assert len(measured) == 3 * COUNT
    programs = [residual_program().hash, residual_program().hash, other.hash]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{kind}-{program}.safetensors" for kind, program in zip(("ranges", "histograms", "ranges"), programs, strict=True)
    )


def test_progress_counts_the_batches_that_were_seen_before_too(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    _evidence(Data().batches[:2], tmp_path).ranges(residual_program())
    Evidence(Calibration(Data().batches), lambda *step: seen.append(step), States(tmp_path)).ranges(residual_program())
    assert seen == [("calibrating", done, COUNT) for done in range(1, COUNT + 1)]


def _shuffled(data: Data) -> Data:
    data.batches[0], data.batches[1] = data.batches[1], data.batches[0]
    return data


OTHER = {
    "other samples": (lambda: Data(seed=9), "its 3 batches were others than the first 3 of these data"),
    "another order": (lambda: _shuffled(Data()), "its 3 batches were others than the first 3 of these data"),
    "fewer": (lambda: Data(count=2), "the data end after 2 batches, the state has seen 3"),
}


@pytest.mark.parametrize("case", OTHER)
def test_other_data_are_refused_and_the_state_stays(case: str, tmp_path: Path, measured: list[Batch]) -> None:
    make, message = OTHER[case]
    with pytest.raises(PowerCutError):
        _evidence(Data(3), tmp_path).ranges(residual_program())
    (path,) = tmp_path.iterdir()
    before = path.read_bytes()
    with pytest.raises(CalibrationError) as caught:
        _evidence(make(), tmp_path).ranges(residual_program())
    way_on = "calibrate on the same data, name another folder, or remove it to start anew"
    assert str(caught.value) == f"calibration state {str(path)!r}: {message}; {way_on}"
    assert path.read_bytes() == before
    assert len(measured) == 3


def test_without_data_a_state_serves_what_it_holds(tmp_path: Path) -> None:
    pipeline, program = Pipeline.parse(PASSES.format("minmax")), residual_program()
    first = pipeline.run(program, Data(), state=tmp_path)
    again = pipeline.run(program, state=tmp_path)
    assert again.program.hash == first.program.hash
    assert again.report.steps[-1].against_input is None


def test_without_data_what_a_state_lacks_is_one_line(tmp_path: Path) -> None:
    program = residual_program()
    with pytest.raises(PowerCutError):
        _evidence(Data(3), tmp_path).ranges(program)
    where = f"calibration state {str(tmp_path)!r}: "
    evidence = Evidence(None, states=States(tmp_path))
    for ask, message in (
        (evidence.ranges, f"{where}ranges of program {program.hash[:12]} were interrupted after 3 batches; give the data to go on"),
        (evidence.histograms, f"{where}holds no histograms of program {program.hash[:12]}; give the data, or the state of the same model"),
        (evidence.first, "this pass needs calibration data, not only a state; give the data too"),
    ):
        with pytest.raises(CalibrationError) as caught:
            ask(program)
        assert str(caught.value).startswith(message)
