"""The smallest ratio that a budget takes: what is left is hardly less than asked, and time is asked of a measurement."""

from __future__ import annotations

import pytest
from float_programs import ResidualNet, captured
from fxpress_ir import Program
from fxpress_ir.errors import PassError
from fxpress_passes import Context, PruneChannels
from fxpress_passes.latency import Latency, TimeRatio
from fxpress_passes.pipeline import Pipeline
from fxpress_passes.prune.budget import Kept, _filled, within_cost, within_time


@pytest.fixture(scope="module")
def program() -> Program:
    """Two groups of 8 atoms, `stem` and `left`."""
    return captured(ResidualNet(), 1, 3, 8, 8)


class ByMacs:
    """A target whose time is MACs and a part that does not shrink; its interval is a tenth wide either way."""

    def __init__(self, fixed: float = 0.2) -> None:
        self.fixed, self.asked = fixed, 0

    def ratio(self, program: Program, parent: Program) -> TimeRatio:
        self.asked += 1
        ratio = self.fixed + (1 - self.fixed) * program.cost().macs / parent.cost().macs
        return TimeRatio(ratio, ratio * 0.9, ratio * 1.1)


def _keep(ratio: float) -> Kept:
    """Blocks of 4 atoms of each group."""
    count = min(max(round((1 - ratio) * 2), 1) * 4, 8)
    return {name: tuple(range(count)) for name in ("stem", "left")}


def test_groups_that_shrink_at_once_shrink_one_by_one_as_far_as_the_budget_asks(program: Program) -> None:
    """Half of both groups is 0.36 of the MACs."""
    counts = {
        wanted: [len(atoms) for atoms in within_cost(program, _keep, "macs", wanted, where="here").values()] for wanted in (1, 0.9, 0.36)
    }
    assert counts == {1: [8, 8], 0.9: [8, 4], 0.36: [4, 4]}


def test_a_group_that_does_not_fit_is_passed_over_for_later_ones() -> None:
    """Sizes as costs: of three groups that shrink at once, the first is too large to stay."""
    more, fewer = ({name: tuple(range(size)) for name, size in zip("abc", sizes, strict=True)} for sizes in ((90, 20, 30), (10, 10, 10)))

    def cost(kept: Kept) -> int:
        return sum(map(len, kept.values()))

    found = _filled(more, fewer, lambda kept: cost(kept) <= 55, lambda kept: cost(kept) > 54)
    assert list(map(len, found.values())) == [10, 20, 10]
    assert _filled(more, fewer, lambda kept: cost(kept) <= 39, lambda kept: cost(kept) >= 30) == fewer  # full already


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("align", [1, 2])
def test_a_budget_is_used_up(program: Program, align: int, scope: str) -> None:
    for what in ("macs", "parameters"):
        found = PruneChannels(**{what: 0.5}, align=align, scope=scope).apply(program, Context())  # type: ignore[arg-type]
        share = getattr(found.cost(), what) / getattr(program.cost(), what)
        assert 0.5 - 0.1 * align < share <= 0.5


def test_time_is_met_by_the_upper_end_of_the_interval(program: Program) -> None:
    latency, shares = ByMacs(), []
    for wanted in (0.9, 0.5):
        found = PruneChannels(time=wanted, latency=latency).apply(program, Context())
        shares.append(latency.ratio(found, program).high)
        assert wanted - 0.2 < shares[-1] <= wanted
    assert shares[1] < shares[0]
    assert latency.asked < 2 * 12


def test_seconds_alone_will_do_and_so_will_the_pipeline_s(program: Program) -> None:
    def seconds(program: Program) -> float:
        return program.cost().macs * 1e-9

    own = PruneChannels(time=0.5, latency=seconds).apply(program, Context())
    given = Pipeline([PruneChannels(time=0.5)]).run(program, latency=seconds).program
    assert own.hash == given.hash
    assert 0.3 < own.cost().macs / program.cost().macs <= 0.5


def test_a_budget_of_all_prunes_nothing(program: Program) -> None:
    latency = ByMacs()
    assert within_time(program, _keep, latency, 1.0, where="here") == {name: tuple(range(8)) for name in ("stem", "left")}
    assert PruneChannels(time=1.0, latency=latency).apply(program, Context()) is program


@pytest.mark.parametrize(
    ("latency", "what"),
    [
        (ByMacs(0.6), r"prune-channels: time=0\.5 cannot be reached: at the least it takes 0\.6\d+ \[.*\] of the whole; raise it"),
        (None, r"prune-channels: time=0\.5 asks for a measurement; give latency=fx\.latency_on\(target\)"),
    ],
)
def test_a_time_that_cannot_be_had_is_refused(program: Program, latency: Latency | None, what: str) -> None:
    with pytest.raises(PassError, match=what):
        PruneChannels(time=0.5, latency=latency).apply(program, Context())
