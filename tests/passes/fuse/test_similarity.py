"""Linear CKA and squared CCA: 1 for what they cannot tell apart, hand-computed otherwise; clusters are runs of the most alike."""

from __future__ import annotations

import pytest
import torch
from encoder import Encoder
from float_programs import captured, measured
from fxpress_ir.analysis.blocks import rows
from fxpress_ir.errors import CalibrationError
from fxpress_passes.fuse.similarity import contiguous_clusters, linear_cka, output_similarity, squared_cca
from projectors import projectors
from torch import Tensor


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cka_knows_no_rotation_and_no_scale() -> None:
    x = drawn(40, 6)
    rotation = torch.linalg.qr(drawn(6, 6, seed=1))[0]
    assert linear_cka(x, x) == pytest.approx(1, abs=1e-12)
    assert linear_cka(x, -3 * x @ rotation + 5) == pytest.approx(1, abs=1e-12)
    assert linear_cka(x, drawn(40, 6, seed=2)) < 0.5
    assert linear_cka(x, x @ torch.diag(torch.tensor([100.0, 1, 1, 1, 1, 1], dtype=torch.float64))) < 0.7


def test_cka_is_its_formula_whichever_product_is_smaller() -> None:
    for x, y in ((drawn(5, 9), drawn(5, 7, seed=1)), (drawn(20, 3), drawn(20, 4, seed=1))):
        a, b = x - x.mean(0), y - y.mean(0)
        expected = float((b.T @ a).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm()))
        assert linear_cka(x, y) == pytest.approx(expected, abs=1e-12)
    constant = torch.ones(5, 2)
    assert (linear_cka(constant, constant), linear_cka(constant, drawn(5, 2))) == (1, 0)


def test_cca_knows_no_invertible_map() -> None:
    x = drawn(40, 6)
    assert squared_cca(x, x @ drawn(6, 6, seed=1) + 2) == pytest.approx(1, abs=1e-9)
    assert squared_cca(x, torch.cat([x[:, :3], drawn(40, 3, seed=3)], 1)) == pytest.approx(0.5, abs=0.15)
    assert squared_cca(x, torch.ones(40, 6)) == 0


@pytest.mark.parametrize("kind", ["cka", "cca"])
def test_duplicated_blocks_are_as_alike_as_can_be(kind: str) -> None:
    program = projectors(4)
    (row,) = rows(program)
    found = output_similarity(kind, program, row, measured(program).evidence.calibration, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, torch.ones(4, 4, dtype=torch.float64), rtol=0, atol=1e-9)
    other = captured(Encoder(depth=3), 2, 6, 4)
    (row,) = rows(other)
    found = output_similarity(kind, other, row, measured(other).evidence.calibration, torch.Generator().manual_seed(0))
    assert float((found - torch.eye(3)).max()) < 0.999


def test_too_few_vectors_for_cca_are_refused() -> None:
    program = captured(Encoder(), 2, 6, 4)
    with pytest.raises(CalibrationError, match=r"share-blocks: the data have 6 vectors of 16 features for similarity=cca; give 64 or more"):
        output_similarity("cca", program, rows(program)[0], measured(program, 1, 1).evidence.calibration, torch.Generator())


def test_runs_grow_by_average_similarity() -> None:
    similarity = torch.tensor([[1, 0.9, 0.1, 0.1], [0.9, 1, 0.6, 0.5], [0.1, 0.6, 1, 0.8], [0.1, 0.5, 0.8, 1]])
    assert contiguous_clusters([similarity], 1) == [[range(2), range(2, 3), range(3, 4)]]
    assert contiguous_clusters([similarity], 2) == [[range(2), range(2, 4)]]
    assert contiguous_clusters([similarity], 3) == [[range(4)]]
    assert contiguous_clusters([similarity, torch.ones(2, 2)], 1) == [[range(1), range(1, 2), range(2, 3), range(3, 4)], [range(2)]]
