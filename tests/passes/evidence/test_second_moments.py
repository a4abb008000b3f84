"""Second moments are those of the rows that weights multiply, whatever the order and the number of runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from float_programs import Chain, captured, sample
from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError
from fxpress_passes.evidence import Calibration, Evidence, SecondMoment, States, merge_calibration
from fxpress_passes.evidence import second_moments as measuring
from fxpress_passes.evidence.second_moments import LAYERS, SecondMoments, moment_key, unmeasured
from fxpress_passes.evidence.state import Run, State, packed, unpacked
from torch import nn

CONVOLUTIONS = (
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 2), "stride": (2, 1), "dilation": (1, 2)},
    {"kernel_size": (2, 4), "padding": "same"},
    {"kernel_size": 3, "padding": "valid"},
)


def _net(**convolution: object) -> Program:
    return captured(Chain(nn.Conv2d(3, 5, **convolution), nn.ReLU(), nn.Flatten(2), nn.Linear(_wide(**convolution), 4)), 1, 3, 8, 8)  # type: ignore[arg-type]


def _wide(**convolution: object) -> int:
    return nn.Conv2d(3, 5, **convolution)(torch.zeros(1, 3, 8, 8)).flatten(2).shape[2]  # type: ignore[arg-type, no-any-return]


def _batches(program: Program) -> list[tuple[torch.Tensor, ...]]:
    return [sample(program, batch, seed) for seed, batch in enumerate((4, 1, 3))]


@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_moments_give_the_energy_of_what_any_weight_would_give(convolution: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_AT_ONCE", 2000)  # several parts a batch
    program = _net(**convolution)
    found = Evidence(Calibration(_batches(program))).second_moments(program)
    torch.manual_seed(1)
    layer = nn.Conv2d(3, 1, bias=False, **convolution)  # type: ignore[arg-type]
    weight = layer.weight.detach().double().flatten().numpy()
    with torch.no_grad():
        results = torch.cat([layer(batch[0]).flatten() for batch in _batches(program)]).double()
    (key,) = [moment_key(node) for node in program.graph.nodes if node.target in LAYERS[1:]]
    assert found[key].count == len(results)
    assert np.isclose(weight @ found[key].moment @ weight, float(results.square().mean()), rtol=1e-5)
    assert np.isclose(weight @ found[key].mean, float(results.mean()), rtol=1e-4, atol=1e-6)


def test_layers_that_read_the_same_rows_share_a_moment() -> None:
    one, two = nn.Linear(6, 4), nn.Linear(6, 4)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = one, two

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.one(x) + self.two(x)
            return result

    program = captured(Both(), 1, 6)
    found = Evidence(Calibration(_batches(program))).second_moments(program)
    rows = torch.cat([batch[0] for batch in _batches(program)]).double()
    assert list(found) == ["x"]
    assert np.allclose(found["x"].products, (rows.T @ rows).numpy(), rtol=1e-5, atol=1e-6)
    assert np.allclose(found["x"].covariance, np.cov(rows.T.numpy(), bias=True), rtol=1e-4, atol=1e-5)


def test_runs_over_parts_of_the_data_merge_to_one(tmp_path: Path) -> None:
    program = _net(kernel_size=3)
    batches = _batches(program)
    whole = Evidence(Calibration(batches)).second_moments(program)
    for name, part in (("a", batches[:1]), ("b", batches[1:])):
        Evidence(Calibration(part), states=States(tmp_path / name)).second_moments(program)
    merge_calibration([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    found = Evidence(None, states=States(tmp_path / "both")).second_moments(program)
    assert found.keys() == whole.keys()
    for key, moment in whole.items():
        assert found[key].count == moment.count
        assert np.allclose(found[key].products, moment.products, rtol=1e-12)


def test_a_state_comes_back_bit_by_bit_and_one_of_other_shapes_is_refused(tmp_path: Path) -> None:
    moments = {str(size): SecondMoment.of(torch.randn(5, size)) for size in (3, 1, 7)}
    state: State[SecondMoment] = State("second_moments", "ab", moments, (Run(1, "d"),), True)
    (tmp_path / "file").write_bytes(packed(state))
    back = unpacked(tmp_path / "file").found
    assert list(back) == list(moments)
    assert all(np.array_equal(back[name].products, moments[name].products) for name in moments)
    assert all(np.array_equal(back[name].sums, moments[name].sums) for name in moments)
    wrong = State("second_moments", "ab", {"x": SecondMoment(1, np.zeros(3), np.zeros((2, 2)))}, (Run(1, "d"),), True)
    (tmp_path / "file").write_bytes(packed(wrong))
    with pytest.raises(CalibrationError, match="no intact"):
        unpacked(tmp_path / "file")


def test_grouped_and_very_wide_layers_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "COLUMNS", 30)
    program = captured(Chain(nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 2, 3)), 1, 4, 8, 8)
    observer = SecondMoments(program)
    observer.observe(sample(program, 2))
    assert not observer.found
    reasons = [unmeasured(node) for node in program.graph.nodes if node.target in LAYERS]
    assert reasons == ["its weight is in 2 groups", "the second moment of its 36 inputs is not kept, 30 are the most"]
