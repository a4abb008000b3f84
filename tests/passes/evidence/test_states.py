"""A folder of states appears file by file, whole or not at all; states of shards merge to that of their union."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fxpress as fx
import pytest
from float_programs import captured, residual_program, sample
from fxpress_ir.errors import CalibrationError
from fxpress_passes.evidence import Batch, Calibration, Evidence, Range, States, merge_calibration
from fxpress_passes.evidence.state import Run, State, packed
from fxpress_passes.pipeline import Pipeline

STATE: State[Range] = State("ranges", "ab12", {"x": Range(0.0, 1.0)}, (Run(1, "d"),), complete=True)
LATER: State[Range] = State("ranges", "ab12", {"x": Range(0.0, 2.0)}, (Run(2, "e"),), complete=True)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    states = States(tmp_path / "deep" / "folder")
    assert states.read("ranges", "ab12") is None
    states.write(STATE)
    states.write(LATER)
    assert States(tmp_path / "deep" / "folder").read("ranges", "ab12") == LATER
    assert states.read("ranges", "ab1") is None
    assert states.read_all() == [LATER]


@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_state_that_cannot_be_written_whole_leaves_the_old_one(
    failing: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = States(tmp_path)
    states.write(STATE)

    def fail(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(failing, fail)
        with pytest.raises((CalibrationError, KeyboardInterrupt)) as caught:
            states.write(LATER)
    assert [path.name for path in tmp_path.iterdir()] == ["ranges-ab12.safetensors"]
    assert states.read("ranges", "ab12") == STATE
    if isinstance(error, OSError):
        assert (
            str(caught.value) == f"calibration state {str(tmp_path)!r}: cannot be written: No space left on device; name a writable folder"
        )


def test_a_file_is_no_folder_of_states(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CalibrationError, match="is not a folder; name a folder"):
        Pipeline([]).run(residual_program(), state=tmp_path / "file")
    with pytest.raises(CalibrationError, match="cannot be written: Not a directory; name a writable folder"):
        States(tmp_path / "file" / "deeper").write(STATE)


def test_a_state_under_another_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ranges-cd34.safetensors").write_bytes(packed(STATE))
    with pytest.raises(CalibrationError, match="holds ranges of program ab12, not what its name says; give it its name back"):
        States(tmp_path).read("ranges", "cd34")


def _batches(*seeds: int) -> list[Batch]:
    return [sample(residual_program(), 3, seed) for seed in seeds]


def _shard(folder: Path, *seeds: int) -> Path:
    evidence = Evidence(Calibration(_batches(*seeds)), states=States(folder))
    evidence.ranges(residual_program())
    evidence.histograms(residual_program())
    return folder


SHARDS = {"a": (0, 1, 2), "b": (3,), "c": (4, 5)}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for name, seeds in SHARDS.items():
        _shard(folder / name, *seeds)
    return folder


@pytest.mark.parametrize("order", ["abc", "cab"])
def test_shards_merge_to_their_union_in_any_order(order: str, shards: Path, tmp_path: Path) -> None:
    fx.merge_calibration([shards / name for name in order], tmp_path)
    whole, merged = Evidence(Calibration(_batches(*range(6)))), Evidence(None, states=States(tmp_path))
    assert merged.ranges(residual_program()) == whole.ranges(residual_program())
    histograms = whole.histograms(residual_program())
    for name, found in merged.histograms(residual_program()).items():
        assert (found.counts == histograms[name].counts).all()
        assert (found.reach, found.seen) == (histograms[name].reach, histograms[name].seen)
    state = States(tmp_path).read("ranges", residual_program().hash)
    assert state is not None
    assert ([run.batches for run in state.runs], state.batches, state.complete) == ([1, 2, 3], 6, True)


def test_merged_states_merge_on(shards: Path, tmp_path: Path) -> None:
    merge_calibration([shards / "a", shards / "b"], tmp_path / "ab")
    merge_calibration([tmp_path / "ab", shards / "c"], tmp_path / "abc")
    merge_calibration([shards / name for name in SHARDS], tmp_path / "whole")
    assert [path.read_bytes() for path in sorted((tmp_path / "abc").iterdir())] == [
        path.read_bytes() for path in sorted((tmp_path / "whole").iterdir())
    ]


def test_a_pipeline_takes_a_merged_state_with_the_data_of_one_of_its_runs_and_without(tmp_path: Path) -> None:
    """The numbers are those of the union; the data at hand compare the programs."""
    pipeline = Pipeline.parse("fold-constants, fold-batch-norm, quantize-dyadic")
    for name, seeds in (("a", (0, 1)), ("b", (2,))):
        pipeline.run(residual_program(), _batches(*seeds), state=tmp_path / name)
    merge_calibration([tmp_path / "a", tmp_path / "b"], tmp_path / "merged")
    expected = pipeline.run(residual_program(), _batches(0, 1, 2)).program.hash
    for data in (None, _batches(2)):
        result = pipeline.run(residual_program(), data, state=tmp_path / "merged")
        assert result.program.hash == expected
        assert (result.report.steps[-1].against_input is None) == (data is None)


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ((0, 1), "the data end after 2 batches, the state has seen 1 and 3"),
        ((7,), "the data end after 1 batches, the state has seen 1 and 3"),
        ((0, 1, 2, 3), "it joins 2 runs, and the data are of none of them"),
    ],
)
def test_a_merged_state_takes_no_other_data(seeds: tuple[int, ...], message: str, shards: Path, tmp_path: Path) -> None:
    merge_calibration([shards / "a", shards / "b"], tmp_path)
    with pytest.raises(CalibrationError, match=message):
        Evidence(Calibration(_batches(*seeds)), states=States(tmp_path)).ranges(residual_program())


def _interrupted(folder: Path) -> Path:
    state = State("ranges", residual_program().hash, {}, (Run(2, "d"),))
    States(folder).write(state)
    return folder


def _of_another_program(folder: Path) -> Path:
    evidence, other = Evidence(Calibration(_batches(8)), states=States(folder)), captured(lambda x: x.relu() * 2, 1, 3, 8, 8)
    evidence.ranges(other)
    return folder


REFUSED = {
    "nothing": (lambda shards, own: [], "no folder to merge; name the folders of two runs or more"),
    "an empty folder": (
        lambda shards, own: [shards / "a", own / "gone"],
        "gone': holds no state; name the folder of a run that calibrated",
    ),
    "the same run twice": (lambda shards, own: [shards / "a", shards / "b", shards / "a"], "two states saw the same 3 batches"),
    "an interrupted run": (
        lambda shards, own: [shards / "a", _interrupted(own / "b")],
        "were interrupted after 2 batches; run it to its end first",
    ),
    "another program": (
        lambda shards, own: [shards / "a", _of_another_program(own / "b")],
        "calibrate the same model by the same pipeline",
    ),
    "other kinds": (
        lambda shards, own: [_of_another_program(own / "b"), shards / "a"],
        f"b': holds no histograms of program {residual_program().hash[:12]}, which",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_merged_is_one_line_and_nothing_is_written(case: str, shards: Path, tmp_path: Path) -> None:
    make, message = REFUSED[case]
    with pytest.raises(CalibrationError) as caught:
        merge_calibration(make(shards, tmp_path), tmp_path / "out")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_states_are_not_merged_over_others(shards: Path) -> None:
    with pytest.raises(CalibrationError, match="a': holds states already; merge into another folder"):
        merge_calibration([shards / "b", shards / "c"], shards / "a")
