"""which atoms stay at each ratio ==> those of the smallest ratio that a budget takes: a share of MACs, of parameters, or of time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fxpress_ir import Program
from fxpress_ir.errors import PassError
from fxpress_ir.slicing import slice_atoms

from ..latency import Latency, TimeRatio, time_ratio

Kept = Mapping[str, tuple[int, ...]]
"""For each group the atoms that stay."""
Keep = Callable[[float], Kept]
"""A share of atoms that leaves ==> those that stay; of a smaller share they are among those of a larger one."""

RATIO = 2**-10
"""Resolution of the ratio under a budget of MACs or parameters, which are counted."""
SLACK = 2**-8
"""Of a budget of MACs or parameters: what may be left of it where steps are coarse, because widths are aligned."""
TIMED_RATIO = 2**-6
"""The same under one of time, of which each step is a measurement."""


def within_cost(program: Program, keep: Keep, what: str, wanted: float, *, where: str) -> Kept:
    """What stays where ``cost().{what}`` is at most `wanted` of the whole program's, and hardly less.

    Groups that shrink at the very ratio where bisection ends stay as they were just below it, from the first on, where the budget
    takes them.

    Raises:
        PassError: even one block of each group is too much.
    """
    whole, known = getattr(program.cost(), what), dict[tuple[int, ...], float]()

    def share(kept: Kept) -> float:
        counts = tuple(map(len, kept.values()))
        if counts not in known:  # a cost is one of sizes, whichever atoms stay
            known[counts] = float(getattr(slice_atoms(program, kept).cost(), what) / whole)
        return known[counts]

    least = share(keep(1.0))
    if least > wanted:
        raise PassError(f"{what}={wanted:g} cannot be reached: {least:.3f} stay at least", where=where, way_on=MORE)
    more, fewer = _bisected(keep, lambda kept: share(kept) <= wanted, RATIO)
    return _filled(more, fewer, lambda kept: share(kept) <= wanted, lambda kept: share(kept) > wanted * (1 - SLACK))


def within_time(program: Program, keep: Keep, latency: Latency, wanted: float, *, where: str) -> Kept:
    """What stays where the program's time on the target is at most `wanted` of the whole one's: the upper end of its interval.

    Raises:
        PassError: with one block of each group it takes longer.
    """
    known = dict[tuple[int, ...], TimeRatio]()

    def ratio(kept: Kept) -> TimeRatio:
        counts = tuple(map(len, kept.values()))
        if counts not in known:
            smaller = slice_atoms(program, kept)
            known[counts] = TimeRatio(1, 1, 1) if smaller is program else time_ratio(smaller, program, latency)
        return known[counts]

    least = ratio(keep(1.0))
    if least.high > wanted:
        raise PassError(f"time={wanted:g} cannot be reached: at the least it takes {least} of the whole", where=where, way_on=MORE)
    return _bisected(keep, lambda kept: ratio(kept).high <= wanted, TIMED_RATIO)[1]


MORE = "raise it, or prune more kinds"
"""The way on where a budget cannot be reached."""
BUDGETS = ("macs", "parameters", "time")
"""Options that are shares that stay."""


def check_budgets(budgets: Mapping[str, float], where: str) -> None:
    """Hold the options to what they mean; 0 is none.

    Raises:
        PassError: two are given, or one is no share.
    """
    if not all(0 <= share <= 1 for share in budgets.values()) or sum(map(bool, budgets.values())) > 1:
        what = ", ".join(f"{name}={share:g}" for name, share in budgets.items() if share)
        raise PassError(what, where=where, way_on="give one of them, the share that stays, at most 1")


def _bisected(keep: Keep, fits: Callable[[Kept], bool], resolution: float) -> tuple[Kept, Kept]:
    """Neighbouring ratios' atoms: at the first too many stay, or all; the second fits. All leaving but one block is known to fit."""
    low, high = 0.0, 1.0
    more, fewer = keep(low), keep(high)
    if fits(more):
        return more, more
    while high - low > resolution:
        middle = (low + high) / 2
        if fits(kept := keep(middle)):
            high, fewer = middle, kept
        else:
            low, more = middle, kept
    return more, fewer


def _filled(more: Kept, fewer: Kept, fits: Callable[[Kept], bool], is_full: Callable[[Kept], bool]) -> Kept:
    """`fewer`, but as many of the first groups as fit as in `more`; then, until it is full, each later one that fits."""
    names = [name for name in fewer if more[name] != fewer[name]]

    def mixed(count: int) -> Kept:
        return {**fewer, **{name: more[name] for name in names[:count]}}

    low, high = 0, len(names)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(mixed(middle)) else (low, middle - 1)
    best = mixed(low)
    for name in names[low + 1 :]:
        if is_full(best):
            break
        wider = {**best, name: more[name]}
        best = wider if fits(wider) else best
    return best
