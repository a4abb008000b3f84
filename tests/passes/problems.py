"""Small problems for the tests of the allocator: drawn ones, with ties between answers, and one in which everything is countable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from fxpress_passes.allocate import Choice, Pair, Problem, Unit
from hypothesis import strategies as st

RESOURCES = ("size", "latency", "macs")


def unit(name: str, **choices: Sequence[float]) -> Unit:
    """``unit("a", w8=(0, 4), w4=(1, 2))``: losses, then costs of `RESOURCES`."""
    return Unit(name, tuple(Choice(each, loss, dict(zip(RESOURCES, costs, strict=False))) for each, (loss, *costs) in choices.items()))


def three(**budgets: float) -> Problem:
    """Three layers of 8 or 4 bits: losses 0 or 1, 2, 4; sizes 4, 8, 8 or half; latencies 3 or 2 each."""
    layers = {"a": (1, 4), "b": (2, 8), "c": (4, 8)}
    return Problem(tuple(unit(name, w8=(0, size, 3), w4=(loss, size / 2, 2)) for name, (loss, size) in layers.items()), budgets)


def choose(problem: Problem, places: Sequence[int]) -> dict[str, str]:
    """The choices at these places, for each unit the remainder by the number of its choices."""
    return {each.name: each.choices[place % len(each.choices)].name for each, place in zip(problem.units, places, strict=False)}


def problems(*, most_budgets: int = 3, pairs: bool = True, exactly: int | None = None) -> st.SearchStrategy[Problem]:
    """Up to five units of up to four choices; each budget is near what some answer takes, often exactly that.

    Numbers are quarters, so that sums are exact and many answers are equal, or those times a number of another magnitude.
    """
    return st.integers(0, 99_999).map(
        lambda seed: _drawn(Random(seed), most_budgets if exactly is None else exactly, pairs, exactly is None)
    )


def _drawn(draw: Random, budgets: int, pairs: bool, fewer: bool) -> Problem:
    names = RESOURCES[: draw.randint(0, budgets) if fewer else budgets]
    scale = draw.choice((1.0, 1.0, 1e-7 / 3, 1e9 / 7))

    def number(low: int, high: int) -> float:
        return draw.randint(low, high) / 4 * scale

    def costs(low: int) -> Mapping[str, float]:
        return {name: number(low, 20) for name in names}

    sizes = [draw.randint(1, 4) for _ in range(draw.randint(1, 5))]
    units = [
        Unit(f"u{place}", tuple(Choice(str(each), number(0, 20), costs(0)) for each in range(size))) for place, size in enumerate(sizes)
    ]
    found = []
    for _ in range(draw.randint(0, 4) if pairs and len(units) > 1 else 0):
        one, other = ((each.name, draw.choice(each.choices).name) for each in draw.sample(units, 2))
        found.append(Pair(one, other, number(-8, 12), costs(-8), draw.random() < 0.2))
    free = Problem(tuple(units), {}, tuple(found), {name: number(0, 8) for name in names[:1]})
    answer = free.costs(choose(free, [draw.randint(0, 3) for _ in units]))
    return free.within({name: answer[name] + draw.choice((0, 0, 0, 1, -1)) * scale for name in names})
