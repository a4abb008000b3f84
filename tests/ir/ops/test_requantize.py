"""fxp::requantize and fxp::add, held to exact rationals."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from fxpress_ir import Edit, Program
from fxpress_ir.analysis.ranges import integer_ranges
from fxpress_ir.dyadic import MULTIPLIER_LIMIT, Dyadic, saturation_bounds
from fxpress_ir.errors import ProgramError
from hypothesis import given, settings
from hypothesis import strategies as st
from support import built, fxp, multipliers
from torch import Tensor, fx

RANGES = {
    (-128, 127): torch.int8,
    (0, 255): torch.uint8,
    (0, 127): torch.uint8,
    (-32768, 32767): torch.int32,
    (-127, 127): torch.int8,
    (-127, 126): torch.int8,
    (0, 6): torch.uint8,
    (1, 254): torch.uint8,
}
INT32 = 2**31


def rounded(product: int, c: int, qmin: int, qmax: int) -> int:
    """The definition: round() of a Fraction is half to even."""
    return min(max(round(Fraction(product, 2**c)), qmin), qmax)


@st.composite
def requantisations(draw: st.DrawFn) -> tuple[Dyadic, int, int, list[int]]:
    """A multiplier from 2**-14 to 2**6, a range, and accumulators at random, near ties and near saturation."""
    qmin, qmax = draw(st.sampled_from(sorted(RANGES)))
    multiplier = draw(st.floats(0.5, 1.0)) * 2.0 ** draw(st.integers(-14, 6))
    m = Dyadic.nearest(multiplier, limit=15 if qmax > 255 else 16)
    bounds = saturation_bounds(np.asarray([m.b]), m.c, qmin, qmax)
    ties = [((2 * draw(st.integers(qmin - 2, qmax + 2)) + 1) << (m.c - 1)) // m.b for _ in range(8)]
    near = [value + step for value in (*ties, *(int(bound[0]) for bound in bounds)) for step in range(-2, 3)]
    free = draw(st.lists(st.integers(-INT32, INT32 - 1), max_size=10))
    return m, qmin, qmax, [acc for acc in (*near, *free, -INT32, INT32 - 1, 0) if -INT32 <= acc < INT32]


@given(requantisations())
@settings(max_examples=300, derandomize=True, deadline=None)
def test_requantize_is_the_rounded_rational(case: tuple[Dyadic, int, int, list[int]]) -> None:
    m, qmin, qmax, accumulators = case
    dtype = RANGES[qmin, qmax]
    x = torch.tensor(accumulators, dtype=torch.int32)
    y = fxp.requantize(x, multipliers([m.b]), m.c, qmin, qmax, 0, dtype)
    assert y.dtype == dtype
    assert y.tolist() == [rounded(acc * m.b, m.c, qmin, qmax) for acc in accumulators]


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
def test_each_channel_has_its_multiplier_along_any_axis(axis: int) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(-100_000, 100_000, (3, 4, 5), generator=generator, dtype=torch.int32)
    b = torch.randint(1, 700, (x.shape[axis],), generator=generator, dtype=torch.int32)
    y = fxp.requantize(x, b, 16, -128, 127, axis, torch.int8)
    for channel in range(x.shape[axis]):
        one = fxp.requantize(x.select(axis, channel), b[channel : channel + 1], 16, -128, 127, 0, torch.int8)
        assert torch.equal(y.select(axis, channel), one)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_8_bit_values_are_rescaled_as_well(dtype: torch.dtype) -> None:
    limits = torch.iinfo(dtype)
    x = torch.arange(limits.min, limits.max + 1, dtype=torch.int32).to(dtype)
    y = fxp.requantize(x, multipliers([3]), 1, limits.min, limits.max, 0, dtype)
    assert y.tolist() == [rounded(3 * value, 1, limits.min, limits.max) for value in x.tolist()]


def test_an_input_is_not_written_to() -> None:
    x = torch.tensor([-(10**6), 10**6], dtype=torch.int32)
    fxp.requantize(x, multipliers([100]), 8, -128, 127, 0, torch.int8)
    assert x.tolist() == [-(10**6), 10**6]


@given(
    st.tuples(*[st.integers(1, MULTIPLIER_LIMIT - 1)] * 2),
    st.integers(1, 16),
    st.sampled_from([limits for limits in sorted(RANGES) if limits[1] <= 255]),
    st.tuples(*[st.sampled_from([torch.int8, torch.uint8])] * 2),
    st.integers(0, 2**30),
)
@settings(max_examples=100, derandomize=True, deadline=None)
def test_add_rounds_the_exact_sum_once(
    factors: tuple[int, int], c: int, limits: tuple[int, int], dtypes: tuple[torch.dtype, torch.dtype], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    ends = [torch.iinfo(dtype) for dtype in dtypes]
    x, y = (torch.randint(end.min, end.max + 1, (60,), generator=generator).to(dtype) for end, dtype in zip(ends, dtypes, strict=True))
    x[:2], y[:2] = torch.tensor([ends[0].min, ends[0].max]), torch.tensor([ends[1].min, ends[1].max])
    found = fxp.add(x, y, *factors, c, *limits, RANGES[limits])
    assert found.tolist() == [
        rounded(left * factors[0] + right * factors[1], c, *limits) for left, right in zip(x.tolist(), y.tolist(), strict=True)
    ]


def test_add_spreads_its_operands() -> None:
    x, y = torch.tensor([[1], [2]], dtype=torch.int8), torch.tensor([10, 20, 30], dtype=torch.uint8)
    assert fxp.add(x, y, 4, 4, 2, 0, 255, torch.uint8).tolist() == [[11, 21, 31], [12, 22, 32]]


def _rescaled(b: Tensor, c: int, qmin: int, qmax: int, axis: int) -> Program:
    """linear [[1, -2], [3, 4]] + [10, -20] on s8[batch, 5, 2], requantised along `axis`."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        weight = edit.add_tensor("weight", torch.tensor([[1, -2], [3, 4]], dtype=torch.int8))
        acc = edit.call(fxp.linear.default, x, weight, edit.add_tensor("bias", multipliers([10, -20])))
        return edit.call(fxp.requantize.default, acc, edit.add_tensor("b", b), c, qmin, qmax, axis, torch.int8)

    return built((1, 5, 2), body, dtype=torch.int8)


def test_the_proof_clips_each_channel_at_its_own_bounds() -> None:
    program = _rescaled(multipliers([100, 200]), 8, -128, 127, -1)
    facts = {fact.what: fact for fact in integer_ranges(program.graph, program.tensors).facts}
    assert (facts["pre-clip bounds"].low, facts["pre-clip bounds"].high) == (-327, 324)  # floor(-32640 / 100), 32384 // 100 + 1
    product = facts["product and rounding term"]
    assert (product.low, product.high) == (-164 * 200, 324 * 100 + 128)  # channel 0 reaches [-372, 393], channel 1 [-916, 869]
    assert (facts["multiplier"].low, facts["multiplier"].high) == (100, 200)
    assert all(fact.holds for fact in facts.values())


def test_bounds_by_channel_do_not_meet_multipliers_of_another_axis() -> None:
    b = multipliers([1, 1, 1, 1, 200])
    program = _rescaled(b, 8, -128, 127, 1)
    x = torch.tensor([[-128, -128]], dtype=torch.int8).repeat(3, 5, 1)
    interval = integer_ranges(program.graph, program.tensors).intervals[program.outputs()[0]]
    (y,) = program.run(x)
    assert int(interval.low) <= int(y.min()) == -128


def test_a_result_interval_is_no_wider_than_the_accumulator_allows() -> None:
    program = _rescaled(multipliers([1, 1]), 8, -128, 127, -1)
    interval = integer_ranges(program.graph, program.tensors).intervals[program.outputs()[0]]
    assert (int(interval.low), int(interval.high)) == (round(-916 / 256), round(869 / 256))


@pytest.mark.parametrize(("count", "axis"), [(3, -1), (2, 1), (0, -1)])
def test_multipliers_that_are_not_one_a_channel_are_refused(count: int, axis: int) -> None:
    with pytest.raises(ProgramError, match=f"b has {count} values for"):
        _rescaled(multipliers([1] * count), 8, -128, 127, axis)
