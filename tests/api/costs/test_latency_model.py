"""Known groups as they are, others from how much there is to do: on times that obey a law, and on such that do not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from fxpress.costs import GroupCosts, LatencyModel
from fxpress.costs.measured import costs_of
from fxpress.costs.work import Measure, Work
from fxpress_backends.profile import RUNTIME, signatures
from fxpress_ir import Program
from fxpress_ir.errors import PassError
from support import chain

TARGET, SIZES = "onnx:qlinear", {"batch": 2}


def law(work: Work, is_layer: bool) -> float:
    return 2e-6 + work.macs * 3e-11 + work.read * 1e-10 if is_layer else 1e-6 + work.written * 2e-10


def sample(program: Program, factor: float = 1.0, threads: int = 1) -> GroupCosts:
    """A program whose kernels obey the law, and whose runtime takes 1 us, and 2 us a group."""
    measure, groups = Measure(program, SIZES), signatures(program, TARGET, SIZES)
    timed = [(nodes, signature, factor * law(measure.work(nodes), "conv2d" in signature)) for nodes, signature in groups]
    return costs_of(program, TARGET, threads, SIZES, (*timed, ((), RUNTIME, 1e-6 + 2e-6 * len(groups))))


def fitted(*widths: Sequence[int]) -> LatencyModel:
    return LatencyModel.fit([sample(chain(*some)) for some in widths])


def test_what_obeys_the_law_is_predicted() -> None:
    model = fitted((4, 8, 16, 32), (8, 8, 24), (16, 4, 12, 4, 8))
    unseen = chain(12, 20, 28, 36)
    assert model.seconds(unseen) == pytest.approx(sample(unseen).seconds, rel=1e-3)  # least squares in float64 of four unknowns
    assert model.of(unseen).by_node.keys() == sample(unseen).by_node.keys()
    assert all((rates >= 0).all() for rates in model.rates.values())


def test_a_known_signature_wins() -> None:
    """Twice as long as the law in one of two measurements of the same: the median, whatever the others say."""
    program = chain(4, 8)
    model = LatencyModel.fit([sample(chain(8, 16, 32)), sample(program), sample(program, 2.0), sample(program, 2.0)])
    found, wanted = model.of(program), sample(program, 2.0)
    assert [seconds for _, _, seconds in found.groups[:-1]] == [seconds for _, _, seconds in wanted.groups[:-1]]


def test_an_unknown_kind_is_held_to_all_others() -> None:
    model = fitted((4, 8, 16, 32))
    assert "max_pool2d" not in model.rates
    small, large = Work(0, 100, 100, 100), Work(0, 10000, 10000, 10000)
    assert 0 < model.group("max_pool2d:0", small) <= model.group("max_pool2d:0", large)


def test_samples_have_to_go_together() -> None:
    with pytest.raises(PassError, match="no measurement"):
        LatencyModel.fit([])
    with pytest.raises(PassError, match="measured differently"):
        LatencyModel.fit([sample(chain(4, 8)), sample(chain(4, 8), threads=2)])


def test_the_work_of_a_group() -> None:
    program = chain(4, 8)
    nodes = next(nodes for nodes, signature in signatures(program, TARGET, SIZES) if "conv2d" in signature)
    image, weight, multipliers = 2 * 4 * 64, 8 * 4 * 9, 8 * 4
    assert Measure(program, SIZES).work(nodes) == Work(2 * 8 * 64 * 4 * 9, image + weight + multipliers, 2 * 8 * 64, 2 * 8 * 64)
