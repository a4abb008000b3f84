"""Which weights stay: exact counts, the lowest scores go, ties in order."""

from __future__ import annotations

import pytest
import torch
from fxpress_passes.prune.masks import over_all, parse_pattern, pattern, share, zeros
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(1, 6), st.integers(1, 12), st.floats(0.01, 0.99), st.integers(0, 2**31))
def test_each_row_has_as_many_zeros_and_keeps_its_highest(rows: int, columns: int, sparsity: float, seed: int) -> None:
    scores = torch.randint(0, 5, (rows, columns), generator=torch.Generator().manual_seed(seed)).double()
    mask = share(scores, sparsity)
    assert set((~mask).sum(1).tolist()) == {zeros(sparsity, columns)}
    for row, kept in zip(scores, mask, strict=True):
        if bool(kept.any()) and not bool(kept.all()):
            assert float(row[~kept].max()) <= float(row[kept].min())


@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([(2, 4), (4, 8), (1, 4)]), st.integers(0, 2**31))
def test_of_every_m_neighbours_the_n_highest_stay(rows: int, groups: int, kind: tuple[int, int], seed: int) -> None:
    kept, of = kind
    scores = torch.rand(rows, groups * of, generator=torch.Generator().manual_seed(seed))
    mask = pattern(scores, kept, of).reshape(-1, of)
    assert set(mask.sum(1).tolist()) == {kept}
    near = scores.reshape(-1, of)
    assert bool((near.where(mask, torch.inf).amin(1) >= near.where(~mask, -torch.inf).amax(1)).all())


def test_among_equals_the_earlier_go() -> None:
    assert share(torch.zeros(1, 4), 0.5).tolist() == [[False, False, True, True]]


def test_over_all_layers_the_lowest_go_wherever_they_are() -> None:
    found = over_all({"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor([[0.0, 0.5]])}, 0.5)
    assert found["a"].tolist() == [[False, True], [True, True]]
    assert found["b"].tolist() == [[False, False]]


def test_a_pattern_is_read() -> None:
    assert parse_pattern("2:4") == (2, 4)


@pytest.mark.parametrize("text", ["4:2", "2:2", "0:4", "2-4", "2:4:8", "a:b"])
def test_what_is_no_pattern_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=text):
        parse_pattern(text)
