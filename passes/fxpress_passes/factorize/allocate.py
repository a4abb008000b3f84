"""rungs of every layer ==> one of each: by the energy that each keeps, or by the parameters that all of them save together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from fxpress_ir.errors import PassError

from ..low_rank.decompositions import Rung

_ROUNDING = 1e-12
"""The share of energy that rounding a product of float32 factors adds: about 2**-24 of each number, squared, and some room."""


def by_energy(rungs: Sequence[Rung], energy: float) -> Rung:
    """The smallest rung that keeps `energy`; of rounding alone nothing is kept."""
    return min((rung for rung in rungs if rung.lost <= 1 - energy + _ROUNDING), key=lambda rung: rung.parameters)


def by_ratio(rungs: Mapping[str, Sequence[Rung]], dense: Mapping[str, int], ratio: float) -> dict[str, Rung]:
    """The rungs that save `ratio` of all parameters in `dense`, at the least energy lost; layers that stay whole are left out.

    Steps down each layer's lower convex hull, from the whole weight on, are taken in the order of energy lost for a parameter
    saved: at each point of the hull that is the least sum of shares lost. The last step is only as long as it has to be.

    Raises:
        PassError: no rungs save so much.
    """
    goal = ratio * sum(dense.values())
    hulls = {name: _hull(rungs[name], dense[name]) for name in rungs}
    steps = sorted(
        ((_price(*pair), name, place) for name, hull in hulls.items() for place, pair in enumerate(pairwise(hull))),
    )
    chosen: dict[str, Rung] = {}
    saved = 0
    for _, name, place in steps:
        if saved >= goal:
            break
        before, after = hulls[name][place : place + 2]
        needed = before.parameters - (goal - saved)
        enough = [rung for rung in rungs[name] if after.parameters <= rung.parameters <= needed]
        taken = max(enough, key=lambda rung: rung.parameters) if enough else after
        saved += before.parameters - taken.parameters
        chosen[name] = taken
    if saved < goal:
        most = saved / sum(dense.values()) if dense else 0.0
        raise PassError(f"ratio={ratio:g} cannot be saved", where="factorize", way_on=f"at most {most:.3f} can")
    return chosen


def _hull(rungs: Sequence[Rung], dense: int) -> list[Rung]:
    """The corners of the lower convex hull of energy lost over parameters, from the whole weight downwards."""
    hull = [Rung((), dense, 0.0)]
    for rung in sorted(rungs, key=lambda rung: -rung.parameters):
        while len(hull) > 1 and _price(hull[-2], hull[-1]) >= _price(hull[-2], rung):
            hull.pop()
        hull.append(rung)
    return hull


def _price(before: Rung, after: Rung) -> float:
    """Energy lost for a parameter saved."""
    return (after.lost - before.lost) / (before.parameters - after.parameters)
