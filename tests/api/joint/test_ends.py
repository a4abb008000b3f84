"""Aims are corrected by what prediction was wrong, and stay between what held and what did not."""

from __future__ import annotations

import pytest
from fxpress.joint.ends import Ends


def test_the_first_aim_is_corrected() -> None:
    assert Ends().narrowed(10.0, True).next(7.0) == 7.0
    assert Ends().narrowed(10.0, False).next(12.0) == 12.0


def test_an_aim_that_prediction_would_have_stay_moves_on() -> None:
    assert Ends().narrowed(10.0, True).next(10.5) < 10.0
    assert Ends().narrowed(10.0, False).next(9.0) > 10.0


def test_between_what_held_and_what_did_not_the_middle_is_aimed_at_unless_prediction_tells() -> None:
    ends = Ends().narrowed(4.0, False).narrowed(9.0, True)
    assert ends.next(5.0) == 5.0
    assert ends.next(3.0) == ends.next(9.0) == pytest.approx(6.0)


def test_ends_only_come_nearer() -> None:
    ends = Ends().narrowed(4.0, False).narrowed(9.0, True)
    assert ends.narrowed(3.0, False) == ends.narrowed(10.0, True) == ends
    assert ends.narrowed(5.0, False) == Ends(5.0, 9.0)
    assert ends.narrowed(8.0, True) == Ends(4.0, 8.0)


def test_halving_ends_at_the_threshold() -> None:
    """A target that takes twice what is predicted, in steps: the largest aim that holds is found."""
    aim, limit, ends = 10.0, 10.0, Ends()
    for _ in range(12):
        taken = 2.0 * round(aim)
        ends = ends.narrowed(aim, taken > limit)
        aim = ends.next(aim * limit / max(taken, 1.0))
    assert ends.low is not None
    assert round(ends.low) == 5
