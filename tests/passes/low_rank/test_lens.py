"""A truncation is the best of its rank in its metric: the error is what Eckart, Young and Mirsky leave, and no other is smaller."""

from __future__ import annotations

import pytest
import torch
from fxpress_passes.low_rank.lens import Lens, Truncation
from torch import Tensor


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _moment(columns: int, rank: int) -> Tensor:
    x = _draw(columns, rank, seed=1)
    return x @ x.T / rank


def _energies(matrix: Tensor, lens: Lens) -> Tensor:
    """Squared singular values of D M S, as eigenvalues of D M C M^T D."""
    weighed = matrix if lens.rows is None else lens.rows[:, None] * matrix
    moment = torch.eye(matrix.shape[1], dtype=torch.float64) if lens.moment is None else lens.moment
    moment = torch.diag(moment) if moment.dim() == 1 else moment
    return torch.linalg.eigvalsh(weighed @ moment @ weighed.T).flip(0).clamp_min(0)


def _error(gap: Tensor, lens: Lens) -> float:
    return float(_energies(gap, lens).sum())


LENSES = {
    "plain": Lens(),
    "moment": Lens(moment=_moment(7, 20)),
    "singular moment": Lens(moment=_moment(7, 4)),
    "diagonal moment": Lens(moment=torch.arange(7.0, dtype=torch.float64)),
    "rows": Lens(rows=torch.linspace(0.1, 3, 5, dtype=torch.float64)),
    "both": Lens(torch.linspace(0.1, 3, 5, dtype=torch.float64), _moment(7, 20)),
}


@pytest.mark.parametrize("name", LENSES)
def test_the_error_at_each_rank_is_the_energy_left_out(name: str) -> None:
    matrix, lens = _draw(5, 7), LENSES[name]
    found = Truncation.of(matrix, lens)
    energies = _energies(matrix, lens)
    for rank in range(1, 6):
        left, right = found.at(rank)
        assert left.shape == (5, rank)
        assert right.shape == (rank, 7)
        assert lens.energy(matrix - left @ right) == pytest.approx(_error(matrix - left @ right, lens), rel=1e-9, abs=1e-9)
        assert _error(matrix - left @ right, lens) == pytest.approx(float(energies[rank:].sum()), rel=1e-9, abs=1e-9)
        assert float(found.lost()[rank]) == pytest.approx(float(energies[rank:].sum() / energies.sum()), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", LENSES)
def test_no_random_change_of_it_is_nearer(name: str) -> None:
    matrix, lens = _draw(5, 7), LENSES[name]
    left, right = Truncation.of(matrix, lens).at(2)
    best = _error(matrix - left @ right, lens)
    for seed in range(20):
        moved = (left + 0.05 * _draw(5, 2, seed=seed)) @ (right + 0.05 * _draw(2, 7, seed=seed + 100))
        assert _error(matrix - moved, lens) >= best * (1 - 1e-12)


def test_a_matrix_of_zeros_loses_nothing() -> None:
    found = Truncation.of(torch.zeros(3, 4, dtype=torch.float64), Lens())
    assert found.lost().tolist() == [0.0] * 4
