"""What cannot be chosen ==> one line a reason, never more than fit."""

from __future__ import annotations

from fxpress.joint.refusals import Refusal, lines


def test_one_line_a_family_and_reason_sorted_each_once() -> None:
    given = [Refusal("ranks", "why", "b"), Refusal("ranks", "why", "a"), Refusal("ranks", "why", "b"), Refusal("channels", "why", "a")]
    assert lines(given) == ["no choice of channels: a: why", "no choice of ranks: a, b: why"]
    assert lines([]) == []


def test_names_that_are_too_many_are_counted() -> None:
    given = [Refusal("ranks", "why", f"layer{place}") for place in range(7)]
    assert lines(given) == ["no choice of ranks: layer0, layer1, layer2, layer3 and 3 more: why"]


def test_lines_that_are_too_many_are_counted_by_names() -> None:
    given = [Refusal("ranks", f"why {place:02}", name) for place in range(15) for name in ("a", "b")]
    found = lines(given)
    assert len(found) == 13
    assert found[11:] == ["no choice of ranks: a, b: why 11", "and 6 more; --json has them all"]
