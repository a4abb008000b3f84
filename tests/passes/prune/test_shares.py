"""Shares of groups: aligned, never nothing, the highest stay; over all groups the lowest leave."""

from __future__ import annotations

import torch
from fxpress_passes.prune.shares import Scored, chosen
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(1, 70), st.integers(1, 16), st.floats(0, 1, exclude_max=True))
def test_what_stays_is_a_block_at_least_and_a_multiple_of_it(size: int, block: int, ratio: float) -> None:
    scored = Scored(torch.rand(size, dtype=torch.float64), block)
    wanted = (1 - ratio) * size
    count = scored.stay(wanted)
    assert 1 <= count <= size
    if size <= block:
        assert count == size
    elif count < size:
        assert count % block == 0
        nearest = min(range(block, size + 1, block), key=lambda other: abs(other - wanted))
        assert abs(count - wanted) <= abs(nearest - wanted) + 1e-9


def test_the_highest_stay_and_among_equals_the_later_ones() -> None:
    scored = Scored(torch.tensor([1.0, 3, 1, 2, 1], dtype=torch.float64), 1)
    assert [scored.best(count) for count in (1, 2, 3, 5)] == [(1,), (1, 3), (1, 3, 4), (0, 1, 2, 3, 4)]


def test_scores_that_do_not_compare_are_divided_by_their_means() -> None:
    found = {"small": Scored(torch.tensor([1.0, 2, 3, 4]), 1), "large": Scored(torch.tensor([100.0, 200, 300, 400]), 1)}
    assert chosen(found, 0.5, "global", True) == {"small": (3,), "large": (0, 1, 2, 3)}
    assert chosen(found, 0.5, "global", False) == {"small": (2, 3), "large": (2, 3)}
    assert chosen(found, 0.5, "layer", True) == {"small": (2, 3), "large": (2, 3)}
    assert chosen({}, 0.5, "global", True) == {}
