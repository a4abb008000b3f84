"""Each metric's lens against NumPy: nothing weighs, the inputs' second moment, the rows' Fisher information."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from float_programs import Chain, captured, refusals, sample
from fxpress_ir import Program
from fxpress_ir.errors import CalibrationError
from fxpress_passes import Context
from fxpress_passes.evidence import Batch, Calibration, Evidence, second_moments
from fxpress_passes.factorize.layers import float_layers
from fxpress_passes.factorize.metrics import METRICS
from fxpress_passes.low_rank.lens import Lens
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional


def _batches(program: Program, batch: int = 5) -> list[tuple[Tensor, ...]]:
    return [sample(program, batch, seed) for seed in range(3)]


def _lenses(metric: str, program: Program, context: Context | None = None, **options: object) -> dict[str, Lens]:
    context = context or Context(Evidence(Calibration(_batches(program))))
    return METRICS[metric](program, float_layers(program, context), context, options.get("loss"))  # type: ignore[arg-type]


def _moment(rows: Tensor) -> NDArray[np.float64]:
    wide = rows.detach().double().numpy()
    return np.asarray(wide.T @ wide / len(wide))


def test_plain_weighs_nothing_and_needs_no_data() -> None:
    program = captured(Chain(nn.Linear(6, 5), nn.Linear(5, 4)), 1, 6)
    lenses = _lenses("plain", program, Context())
    assert list(lenses) == ["linear", "linear_1"]
    assert all(lens.rows is None and lens.moment is None for lens in lenses.values())


def test_activations_weigh_by_the_moment_of_what_a_linear_layer_reads() -> None:
    program = captured(Chain(nn.ReLU(), nn.Linear(6, 5)), 1, 6)
    lens = _lenses("activations", program)["linear"]
    seen = torch.cat([batch[0] for batch in _batches(program)]).relu()
    assert lens.rows is None
    assert lens.moment is not None
    assert np.allclose(lens.moment.numpy(), _moment(seen), rtol=1e-5, atol=1e-6)


def test_a_convolutions_rows_are_its_windows_in_the_order_of_the_flattened_weight() -> None:
    layer = nn.Conv2d(2, 4, (3, 2), stride=(2, 1), bias=False)
    program = captured(Chain(layer), 1, 2, 7, 5)
    lens = _lenses("activations", program)["conv2d"]
    x = torch.cat([batch[0] for batch in _batches(program)])
    windows = [x[:, :, i : i + 3, j : j + 2].flatten(1) for i in range(0, 5, 2) for j in range(4)]
    assert lens.moment is not None
    assert np.allclose(lens.moment.numpy(), _moment(torch.cat(windows)), rtol=1e-5, atol=1e-6)
    energy = sum(float(layer(batch[0]).detach().double().square().sum()) for batch in _batches(program)) / (len(x) * 12)
    assert lens.energy(layer.weight.detach().double().flatten(1)) == pytest.approx(energy, rel=1e-5)


def test_inputs_of_all_readers_of_a_weight_count_together() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(6, 6))

        def forward(self, x: Tensor) -> Tensor:
            return functional.linear(functional.linear(x, self.w), self.w)

    module = Twice()
    program = captured(module, 1, 6)
    x = torch.cat([batch[0] for batch in _batches(program)])
    moment = _lenses("activations", program)["linear"].moment
    assert moment is not None
    assert np.allclose(moment.numpy(), _moment(torch.cat([x, x @ module.w.T])), rtol=1e-5, atol=1e-6)


def test_a_layer_with_too_many_inputs_to_measure_is_refused_by_activations_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_moments, "COLUMNS", 5)
    program = captured(Chain(nn.Linear(6, 5), nn.Linear(5, 4)), 1, 6)
    context = Context(Evidence(Calibration(_batches(program))))
    assert list(_lenses("activations", program, context)) == ["linear_1"]
    assert refusals(context) == ["linear: the second moment of its 6 inputs is not kept, 5 are the most; metric=plain needs none"]
    assert list(_lenses("fisher", program, context)) == ["linear", "linear_1"]


def _two(head: Sequence[float]) -> Program:
    """y = head . (W x), so that dy / dW_ij = head_i x_j."""
    first, last = nn.Linear(6, len(head)), nn.Linear(len(head), 1)
    last.weight.data = torch.tensor([head])
    return captured(Chain(first, last), 1, 6)


@pytest.mark.parametrize("batch", [1, 5])
def test_by_fisher_a_row_weighs_as_much_as_the_output_depends_on_it(batch: int) -> None:
    program = _two([4.0, -2.0, 1.0, 0.0])
    lenses = _lenses("fisher", program, Context(Evidence(Calibration(_batches(program, batch)))))
    rows = lenses["linear"].rows
    assert lenses["linear"].moment is None
    assert rows is not None
    # what no gradient reaches still counts for a thousandth
    assert rows.tolist() == pytest.approx([1, 0.5, 0.25, 0.001], rel=1e-6)


def test_a_given_losss_gradients_are_squared_sample_by_sample() -> None:
    program = captured(Chain(nn.Linear(6, 3, bias=False)), 1, 6)

    def loss(outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        """Half of sum over i of y_i^2, i + 1 times: dL / dW_ij = (i + 1) y_i x_j."""
        return (outputs[0].square() * torch.tensor([1.0, 2, 3])).sum() / 2

    x = torch.cat([batch[0] for batch in _batches(program)]).double().numpy()
    y = x @ program.tensors["0.weight"].detach().double().numpy().T
    gradients = (y * [1, 2, 3])[:, :, None] * x[:, None, :]
    expected = np.sqrt(np.square(gradients).mean(0).sum(1))
    rows = _lenses("fisher", program, loss=loss)["linear"].rows
    assert rows is not None
    assert np.allclose(rows.numpy(), expected / expected.max(), rtol=1e-5)


def test_where_no_gradient_arrives_rows_weigh_the_same() -> None:
    rows = _lenses("fisher", _two([0.0, 0.0, 0.0]))["linear"].rows
    assert rows is not None
    assert rows.tolist() == [1, 1, 1]


@pytest.mark.parametrize("metric", ["activations", "fisher"])
def test_without_data_there_is_nothing_to_weigh_by(metric: str) -> None:
    with pytest.raises(CalibrationError, match="calibration data"):
        _lenses(metric, _two([1.0]), Context())
