"""kinds of changes ==> the program with those that a measurement on the target finds faster; with all where nothing is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from fxpress_ir import Program

from ..contract import Context, Refused
from ..latency import Latency, time_ratio

Piece = TypeVar("Piece")


def fastest(
    program: Program,
    kinds: Sequence[tuple[str, Sequence[Piece]]],
    change: Callable[[Program, Sequence[Piece]], Program],
    latency: Latency | None,
    context: Context,
) -> Program:
    """`program` with the changes of every kind that is faster than without it; the others are refused with the time that they take.

    Args:
        kinds: what to call a kind of changes, and the pieces of `program` that it changes. Changes of one kind are alike, so they are
            judged together; kinds one after the other, each beside those that were kept.
        change: gives the program with the changes of some pieces.
    """
    if latency is None:
        return change(program, [piece for _, pieces in kinds for piece in pieces])
    kept, best = list[Piece](), program
    for name, pieces in kinds:
        changed = change(program, [*kept, *pieces])
        found = time_ratio(changed, best, latency)
        if found.is_faster:
            kept, best = [*kept, *pieces], changed
        else:
            reason = f"fused, the program takes {found} of its time"
            context.refusals.append(Refused(name, reason, "they stay apart; where nothing is measured all are fused"))
    return best
