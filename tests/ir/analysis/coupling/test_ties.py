"""Atoms are the connected components of what rules tie."""

from __future__ import annotations

import numpy as np
from fxpress_ir.analysis.coupling.ties import Ties, first_reasons
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=60))
def test_atoms_are_connected_components(count: int, pairs: list[tuple[int, int]]) -> None:
    pairs = [(one % count, other % count) for one, other in pairs]
    ties = Ties()
    labels = ties.fresh(count)
    for one, other in pairs:
        ties.tie(labels[[one]], labels[[other]])
    component = list(range(count))
    for one, other in pairs:
        old, new = max(component[one], component[other]), min(component[one], component[other])
        component = [new if atom == old else atom for atom in component]
    assert ties.atoms().tolist() == component


def test_what_meets_a_dimension_that_stays_stays() -> None:
    ties = Ties()
    one, other = ties.fresh(2), ties.fresh(2)
    assert ties.tie(one, "a reason", other) == "a reason"
    assert first_reasons(ties.pins, ties.atoms()) == dict.fromkeys(range(4), "a reason")


def test_the_first_reason_counts() -> None:
    ties = Ties()
    one, other = ties.fresh(1), ties.fresh(1)
    ties.tie(one, other)
    ties.pin(other, "first")
    ties.pin(one, "second")
    assert first_reasons(ties.pins, ties.atoms()) == {0: "first"}


def test_blocks_leave_as_a_whole() -> None:
    ties = Ties()
    labels = ties.fresh(6)
    assert ties.tie_blocks(labels, 3).tolist() == [0, 2, 4]
    assert np.array_equal(ties.atoms(), [0, 0, 2, 2, 4, 4])


def test_copies_are_soft() -> None:
    ties = Ties()
    own, copies = ties.fresh(3), ties.fresh(3, soft=True)
    assert ties.is_soft(copies)
    assert not ties.is_soft(own)
    assert not ties.is_soft(np.concatenate([own, copies]))
