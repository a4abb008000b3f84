"""A state comes back from its bytes as it was, and a byte that changed is noticed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fxpress_ir.errors import CalibrationError
from fxpress_passes.evidence import Histogram, Range
from fxpress_passes.evidence.state import Run, State, packed, unpacked
from fxpress_passes.evidence.tally import Tally
from fxpress_passes.evidence.trace import Trace
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

values = st.floats(width=32, allow_nan=False, allow_infinity=False)
RANGES: State[Range] = State("ranges", "ab12", {"x": Range(-0.0, 1e-45), "a_b": Range(-3e38, 0.1)}, (Run(3, "d1"), Run(5, "d0")), True)


def _histograms() -> State[Histogram]:
    found = {name: Histogram.of(torch.tensor(data)) for name, data in (("x", [0.1, -7.0, 3e38]), ("zero", [0.0]))}
    return State("histograms", "cd", found, (Run(1, "e"),))


def _back(state: State[Any], folder: Path) -> State[Any]:
    (folder / "file").write_bytes(packed(state))
    return unpacked(folder / "file")


def test_ranges_come_back_bit_by_bit(tmp_path: Path) -> None:
    found = _back(RANGES, tmp_path)
    assert found == RANGES
    assert list(found.found) == list(RANGES.found)
    assert str(found.found["x"].low) == "-0.0"


@given(st.lists(st.lists(values, min_size=1, max_size=6), max_size=4))
def test_histograms_come_back_bit_by_bit(tmp_path_factory: pytest.TempPathFactory, data: list[list[float]]) -> None:
    state = State("histograms", "cd", {str(place): Histogram.of(torch.tensor(row)) for place, row in enumerate(data)})
    found = _back(state, tmp_path_factory.mktemp("state")).found
    assert found.keys() == state.found.keys()
    for name, histogram in state.found.items():
        assert np.array_equal(found[name].counts, histogram.counts)
        assert found[name].counts.dtype == np.int64
        assert (found[name].reach, found[name].seen) == (histogram.reach, histogram.seen)


def test_spreads_come_back_bit_by_bit_and_ranges_without_one_stay_so(tmp_path: Path) -> None:
    kept = Range.of(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), axis=1)
    state: State[Range] = State("ranges", "ab", {"x": Range(0.0, 1.0), "linear": kept, "y": Range(2.0, 3.0)}, (Run(1, "d"),))
    found = _back(state, tmp_path).found
    assert found["x"].spread is None
    assert found["y"].spread is None
    spread = found["linear"].spread
    assert spread is not None
    assert kept.spread is not None
    assert spread.count == 5
    assert np.array_equal(spread.mean, kept.spread.mean)
    assert np.array_equal(spread.squares, kept.spread.squares)


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        ("traces", {"a": Trace(6, 2, 0.1, 1e-300), "b": Trace(1, 1, -0.0, 0.0)}),
        ("tallies", {"a": Tally(3, 0.1), "b": Tally(1, float("inf"))}),
        ("eigenvalues", {}),
    ],
)
def test_what_was_asked_and_its_numbers_come_back(kind: str, facts: dict[str, Any], tmp_path: Path) -> None:
    state = State[Any](kind, "ab12", facts, (Run(2, "d"),), True, "noise, 4 batches")
    assert _back(state, tmp_path) == state


def test_equal_states_are_equal_bytes() -> None:
    assert packed(_histograms()) == packed(_histograms())


def test_a_run_knows_its_batches_their_order_and_their_types() -> None:
    one, other = (torch.tensor([1.0, 2.0]),), (torch.tensor([3.0]),)
    run = Run().then(one).then(other)
    assert run == Run().then((one[0].clone(),)).then(other)
    assert run.batches == 2
    others = [Run().then(other).then(one), Run().then(one), Run().then((one[0].double(),)).then(other), Run().then((*one, *other))]
    assert run.digest not in {different.digest for different in others}


def _changed(data: bytes, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> bytes:
    """The file with its record and arrays changed, the SHA-256 as it was."""
    size = int.from_bytes(data[:8], "little")
    record, arrays = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["fxpress"]), load(data)
    change(record, arrays)
    return save(arrays, metadata={"fxpress": json.dumps(record)})


DAMAGED = {
    "empty": (lambda data: b"", "is no intact calibration state"),
    "cut": (lambda data: data[:-9], "is no intact calibration state"),
    "other text": (lambda data: b"{" * 100, "is no intact calibration state"),
    "another safetensors file": (lambda data: save({"low": np.zeros(1)}), "is no intact calibration state"),
    "a flipped bit": (lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:], "is damaged: its SHA-256 is another one"),
    "another program": (lambda data: _changed(data, lambda record, _: record.update(program="x")), "is damaged: its SHA-256"),
    "completed": (lambda data: _changed(data, lambda record, _: record.update(complete=True)), "is damaged: its SHA-256"),
    "no record of runs": (lambda data: _changed(data, lambda record, _: record.pop("sha256")), "is no intact calibration state"),
    "another version": (
        lambda data: _changed(data, lambda record, _: record.update(format_version=9)),
        "its format is fxpress-calibration 9, expected fxpress-calibration 2",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_damaged_is_one_line(case: str, tmp_path: Path) -> None:
    change, message = DAMAGED[case]
    (tmp_path / "file").write_bytes(change(packed(_histograms())))
    with pytest.raises(CalibrationError) as caught:
        unpacked(tmp_path / "file")
    assert str(caught.value).startswith(f"calibration state '{tmp_path / 'file'}': {message}")
    assert str(caught.value).endswith("; remove it to measure anew")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        State("ranges", "p", {"x": Range(0.0, 1.0)}, runs=()),
        State("histograms", "p", {"x": Histogram(np.zeros(4096, np.int64), 0.0, Range(0.0, 0.0))}),
        State("histograms", "p", {"x": Histogram(np.zeros(4096, np.int64), float("inf"), Range(0.0, 0.0))}),
        State("traces", "p", {"x": Trace(6, 0, 0.0, 0.0)}),
        State("traces", "p", {"x": Trace(6, 2, float("nan"), 0.0)}),
        State("tallies", "p", {"x": Tally(0, 1.0)}),
    ],
    ids=["no run", "no reach", "an infinite reach", "no draws", "a NaN", "a sum of nothing"],
)
def test_what_no_run_leaves_behind_is_refused_under_a_right_sha_too(wrong: State[Any], tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="is no intact calibration state; remove it to measure anew"):
        _back(wrong, tmp_path)


def test_what_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"cannot be read: No such file.*; check the folder"):
        unpacked(tmp_path / "gone")
