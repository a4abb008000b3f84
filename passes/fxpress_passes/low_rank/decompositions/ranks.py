"""ranks ==> themselves, held to how many a decomposition has and how large they may be."""

from __future__ import annotations

from collections.abc import Sequence

from fxpress_ir.errors import PassError

from ..lens import Truncation
from .piece import Rung


def check_ranks(ranks: Sequence[int], full: Sequence[int]) -> None:
    """Raise a PassError where `ranks` do not fit a decomposition whose full ranks are `full`."""
    if len(ranks) != len(full) or not all(1 <= rank <= most for rank, most in zip(ranks, full, strict=True)):
        expected = ", ".join(f"1 to {most}" for most in full)
        raise PassError(f"ranks {list(ranks)} do not fit", where="factorize", way_on=f"give {len(full)} of {expected}")


def single_rungs(found: Truncation, cost: int) -> tuple[Rung, ...]:
    """The rungs of one matrix, each rank of which costs `cost` parameters."""
    lost = found.lost().tolist()
    return tuple(Rung((rank,), rank * cost, lost[rank]) for rank in range(len(found.energies), 0, -1))
