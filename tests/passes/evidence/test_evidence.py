"""Evidence is measured when it is first asked for, once for each program."""

from __future__ import annotations

import pytest
import torch
from float_programs import captured, residual_program, sample
from fxpress_ir.errors import CalibrationError
from fxpress_passes import Context, FoldBatchNorm
from fxpress_passes.evidence import Calibration, Evidence, Range
from fxpress_passes.evidence import ranges as measuring


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the batch size whenever a batch is measured."""
    counted: list[int] = []
    observe = measuring.Ranges.observe

    def counting(self: measuring.Ranges, batch: tuple[torch.Tensor, ...]) -> None:
        counted.append(len(batch[0]))
        observe(self, batch)

    monkeypatch.setattr(measuring.Ranges, "observe", counting)
    return counted


def _calibration() -> Calibration:
    return Calibration([sample(residual_program(), batch, seed=batch) for batch in (2, 1, 3)])


def test_nothing_is_measured_before_it_is_asked_for(runs: list[int]) -> None:
    evidence = Evidence(_calibration())
    assert torch.equal(evidence.first(residual_program())[0], sample(residual_program(), 2, seed=2)[0])
    assert runs == []


def test_a_second_question_does_not_run_the_model(runs: list[int]) -> None:
    evidence = Evidence(_calibration())
    first = evidence.ranges(residual_program())
    assert runs == [2, 1, 3]
    assert evidence.ranges(residual_program()) is first
    assert evidence.ranges(residual_program().noted("nothing")) is first
    assert runs == [2, 1, 3]


def test_a_changed_program_is_measured_anew(runs: list[int]) -> None:
    evidence = Evidence(_calibration())
    before = evidence.ranges(residual_program())
    after = evidence.ranges(FoldBatchNorm().apply(residual_program(), Context()))
    assert runs == [2, 1, 3] * 2
    assert "batch_norm" in before
    assert "batch_norm" not in after
    assert before["x"] == after["x"]


def test_progress_counts_batches() -> None:
    seen: list[tuple[str, int, int]] = []
    Evidence(_calibration(), lambda *step: seen.append(step)).ranges(residual_program())
    assert seen == [("calibrating", done, 3) for done in (1, 2, 3)]


def test_a_failed_measurement_is_not_kept(runs: list[int]) -> None:
    batches = [sample(residual_program(), 2), (torch.full((2, 3, 8, 8), float("nan")),)]
    evidence = Evidence(Calibration(batches))
    with pytest.raises(CalibrationError, match="calibration batch 1"):
        evidence.ranges(residual_program())
    batches[1] = sample(residual_program(), 2, seed=1)
    assert isinstance(evidence.ranges(residual_program())["x"], Range)
    assert runs == [2, 2, 2]


def test_histograms_are_measured_once_and_agree_with_the_ranges(runs: list[int]) -> None:
    evidence, program = Evidence(_calibration()), residual_program()
    histograms = evidence.histograms(program)
    assert evidence.histograms(program.noted("nothing")) is histograms
    assert runs == []  # the ranges were not needed for them
    assert {name: histogram.seen for name, histogram in histograms.items()} == dict(evidence.ranges(program))
    sizes = {name: int(histogram.counts.sum()) for name, histogram in histograms.items()}
    assert sizes["x"] == 6 * 3 * 8 * 8


def test_a_value_that_is_not_finite_has_no_histogram() -> None:
    program = captured(torch.log, 1, 2)
    with pytest.raises(CalibrationError, match="log: the value is NaN or infinite on calibration data"):
        Evidence(Calibration([torch.tensor([[1.0, 0.0]])])).histograms(program)
