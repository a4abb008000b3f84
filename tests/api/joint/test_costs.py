"""What a target was measured to take ==> bytes and seconds of each choice, from numbers made by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from fxpress.joint import Space
from fxpress.joint.costs import OTHERS, Costs, Taken
from fxpress.joint.space import LEAVES, group_unit
from fxpress_ir import Program
from joint_net import space as residual
from two_layers import space

HEADER, ELEMENTS = 1000, 16 * 6 + 4 * 16
GROUP, LEVELS = group_unit("first"), (0.75, 0.5, 0.25)
Programs = Mapping[str, tuple[Program, Mapping[str, str]]]


@dataclass
class Target:
    """A target that takes what is written here; labels that are not written take as much as no choice at all.

    Attributes:
        sizes: bytes of payload by label.
        seconds: of each layer by label, unless `single` has the layer's own.
        others: seconds of all else; without any, time is not measured.
    """

    sizes: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    single: Mapping[tuple[str, str], float] = field(default_factory=dict)
    others: Mapping[str, float] = field(default_factory=lambda: {"w8": 3.0})
    of: Space = field(default_factory=space)
    asked: list[str] = field(default_factory=list)

    def __call__(self, programs: Programs) -> dict[str, Taken]:
        self.asked += programs
        whole = HEADER + sum(layer.elements for layer in self.of.layers.values())
        return {label: Taken(self.sizes.get(label, whole), self._seconds(label)) for label in programs}

    def _seconds(self, label: str) -> dict[str, float] | None:
        alike = self.seconds.get(label, 2.0)
        layers = {name: self.single.get((label, name), alike) for name in self.of.layers}
        return {**layers, OTHERS: self.others.get(label, self.others["w8"])} if self.others else None


def seconds(found: Costs) -> Mapping[tuple[str, str], float]:
    assert found.seconds is not None
    return found.seconds


def test_each_choice_is_measured_once_made_everywhere() -> None:
    target = Target()
    Costs.measured(space(), target)
    assert sorted(target.asked) == sorted(["w8", "w3", *(f"r{share:g}" for share in LEVELS), *(f"keep {share:g}" for share in LEVELS)])


def test_sizes_follow_the_bits() -> None:
    found = Costs.measured(space(), Target({"w3": HEADER + ELEMENTS * 3 // 8}))
    for name, elements in (("linear", 96), ("linear_1", 64)):
        assert found.size[name, "w8"] == elements
        assert found.size[name, "w3"] == pytest.approx(elements * 3 / 8)
    assert found.overhead["size"] == HEADER


def test_bits_that_the_target_does_not_store_smaller_are_no_smaller() -> None:
    found = Costs.measured(space(), Target({"w3": HEADER + ELEMENTS}))
    assert found.size["linear", "w3"] == found.size["linear", "w8"]


@pytest.mark.parametrize("code", [0, 10])
def test_a_rank_takes_its_factors_bytes_and_its_part_of_what_else_grows(code: int) -> None:
    own = space()
    factors = own.rank((16, 6), 0.5) * (16 + 6) + own.rank((4, 16), 0.5) * (4 + 16)
    assert own.ranked == {"linear", "linear_1"}
    found = Costs.measured(own, Target({"w3": HEADER + ELEMENTS // 2, "r0.5": HEADER + factors + code}))
    rank = own.rank((16, 6), 0.5)
    assert found.size["linear", "r0.5 w8"] == rank * (16 + 6) + code / 2
    assert found.size["linear", "r0.5 w3"] == pytest.approx(rank * (16 + 6) / 2 + code / 2)


def test_a_rank_takes_the_seconds_that_its_factors_were_measured_to_take() -> None:
    """At the bits that it is joined with, as much less as these took of the whole layer."""
    found = seconds(Costs.measured(space(), Target(seconds={"r0.5": 1.2, "w3": 1.0})))
    assert [found["linear", choice] for choice in ("w8", "w3", "r0.5 w8", "r0.5 w3")] == pytest.approx([2.0, 1.0, 1.2, 0.6])


def test_what_all_else_takes_more_is_shared_by_the_layers_that_caused_it() -> None:
    found, own = seconds(Costs.measured(space(), Target(others={"w8": 3.0, "r0.5": 3.8, "w3": 3.2}))), space()
    assert own.ranked
    assert sum(found[name, "r0.5 w8"] - found[name, "w8"] for name in own.ranked) == pytest.approx(0.8)
    assert sum(found[name, "w3"] - found[name, "w8"] for name in own.layers) == pytest.approx(0.2)
    assert all(found[name, "r0.5 w8"] > found[name, "w8"] for name in own.ranked)


def test_all_else_that_takes_less_makes_no_layer_cheaper() -> None:
    found = seconds(Costs.measured(space(), Target(others={"w8": 3.0, "r0.5": 2.0})))
    assert found["linear", "r0.5 w8"] == pytest.approx(found["linear", "w8"])


@pytest.mark.parametrize(("at_half", "rate"), [(1.0, 1.0), (1.5, 0.5), (2.0, 0.0), (2.5, 0.0), (0.1, 1.0)])
def test_a_layers_rate_is_how_much_of_its_time_went_with_its_elements(at_half: float, rate: float) -> None:
    left = {f"keep {share:g}": 2.0 - (2.0 - at_half) * (1 - share) / 0.5 for share in LEVELS}
    found = Costs.measured(space(), Target(single={(level, "linear"): value for level, value in left.items()}))
    assert found.rate == pytest.approx({"linear": rate, "linear_1": 0.0})


def test_what_a_group_and_a_block_take_along() -> None:
    own = residual()
    found = Costs.measured(own, Target(others={"w8": 3.0, "keep 0.5": 2.6, LEAVES: 2.0}, of=own))
    inner = group_unit("blocks.0.first")
    assert found.shares[inner, "keep 0.5"] == {"conv2d_1": 0.5, "conv2d_2": 0.5}
    assert found.shares[inner, "keep 1"] == {}
    # the width of the residual stream is an output of some layers and an input of the others
    assert found.shares[group_unit("stem.folded"), "keep 0.25"] == dict.fromkeys(own.layers, 0.25)
    groups = list(map(group_unit, own.atoms))
    assert [found.others[unit, "keep 0.5"] for unit in groups] == pytest.approx([0.4 / len(groups)] * len(groups))
    assert [found.others[unit, "keep 0.25"] for unit in groups] == [0.0] * len(groups)
    assert [found.others[unit, LEAVES] for unit in own.blocks] == pytest.approx([0.5, 0.5])
    assert found.overhead["latency"] == 3.0


def test_scaled_changes_seconds_alone() -> None:
    found = Costs.measured(space(), Target(others={"w8": 3.0, "keep 0.5": 2.6}))
    twice = found.scaled(2.0)
    assert twice.seconds == {key: 2 * value for key, value in seconds(found).items()}
    assert twice.others[GROUP, "keep 0.5"] == pytest.approx(0.8)
    assert twice.overhead == {"size": HEADER, "latency": 6.0}
    assert (twice.size, twice.shares, twice.rate) == (found.size, found.shares, found.rate)


def test_without_seconds_there_are_sizes_alone() -> None:
    found = Costs.measured(space(), Target(others={}))
    assert found.seconds is None
    assert (found.overhead, found.others) == ({"size": HEADER}, {})
    assert found.size["linear", "w8"] == 96
    assert found.shares[GROUP, "keep 0.5"] == {"linear": 0.5, "linear_1": 0.5}
    assert found.scaled(2.0) is found
