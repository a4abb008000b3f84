"""fxp::normalize, held to its definition on exact integers and to the real value; its proof rule to extremes."""

from __future__ import annotations

from math import isqrt

import pytest
import torch
from fxpress_ir import Edit, Program, verify
from fxpress_ir.analysis.ranges import integer_ranges
from fxpress_ir.errors import ProgramError, VerifyError
from fxpress_ir.ops import Fact, Interval
from fxpress_ir.ops.rsqrt import rsqrt
from hypothesis import given, settings
from hypothesis import strategies as st
from several import several
from support import aten, built, fxp
from torch import Tensor, fx

DTYPES = (torch.int8, torch.uint8, torch.int16)
exact = settings(max_examples=100, deadline=None, derandomize=True)


@st.composite
def rows(draw: st.DrawFn) -> Tensor:
    """Rows [4, N]: anything, the two ends only, nearly equal values, one value that stands out."""
    dtype, count = draw(st.sampled_from(DTYPES)), draw(st.sampled_from([2, 3, 5, 16, 33, 192]))
    limits, generator = torch.iinfo(dtype), torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    base = draw(st.integers(limits.min, limits.max - 3))
    kinds = {
        "anything": torch.randint(limits.min, limits.max + 1, (4, count), generator=generator),
        "ends": torch.tensor([limits.min, limits.max])[torch.randint(0, 2, (4, count), generator=generator)],
        "near": base + torch.randint(0, draw(st.integers(1, 4)), (4, count), generator=generator),
        "one": torch.full((4, count), base).index_fill_(1, torch.tensor([draw(st.integers(0, count - 1))]), draw(st.integers(0, 127))),
    }
    return kinds[draw(st.sampled_from(sorted(kinds)))].to(dtype)


def parts(row: list[int], epsilon: int, centre: bool) -> tuple[list[int], int]:
    """d and V of a row."""
    total = sum(row) if centre else 0
    return [len(row) * value - total for value in row], len(row) * sum(value * value for value in row) - total * total + epsilon


@exact
@given(rows(), st.one_of(st.integers(1, 1000), st.integers(1, 2**61)), st.booleans())
def test_every_value_is_its_definition_and_within_its_bound(x: Tensor, epsilon: int, centre: bool) -> None:
    u = fxp.normalize(x, epsilon, centre)
    assert (u.dtype, u.shape) == (torch.int32, x.shape)
    for row, found in zip(x.tolist(), u.tolist(), strict=True):
        deviations, moment = parts(row, epsilon, centre)
        root, h = (int(part) for part in rsqrt(torch.tensor(moment)))
        scaled = [(d + (1 << h - 10)) >> (h - 9) if h > 9 else d << (9 - h) for d in deviations]
        assert found == [(d * ((root + 1) >> 1) + 2**13) >> 14 for d in scaled]
        for d, value in zip(deviations, found, strict=True):
            real = d * 2**50 / isqrt(moment << 80)
            assert abs(value - real) <= 1.501 + 4.7e-5 * abs(real)


def errors(x: Tensor, epsilon: int, centre: bool) -> Tensor:
    """|u / 2**10 - d / sqrt(V)| in float64, which holds d and V of these rows."""
    wide, count = x.double(), x.shape[-1]
    total = wide.sum(-1, keepdim=True) * centre
    moment = count * (wide * wide).sum(-1, keepdim=True) - total * total + epsilon
    return (fxp.normalize(x, epsilon, centre) / 2**10 - (count * wide - total) / moment.sqrt()).abs()


@pytest.mark.parametrize(("count", "alone"), [(192, 0.0018), (768, 0.0021), (4096, 0.0034)])
@pytest.mark.parametrize("dtype", [torch.int8, torch.int16])
@pytest.mark.parametrize("centre", [True, False])
def test_errors_at_the_sizes_of_transformers(count: int, alone: float, dtype: torch.dtype, centre: bool) -> None:
    """Normal rows; one channel in a hundred 30 times as large; one value that differs from all others."""
    generator, limits = torch.Generator().manual_seed(count), torch.iinfo(dtype)
    spread = torch.rand(50, 1, generator=generator) + 0.2
    normal = torch.randn(50, count, generator=generator) * spread
    channels = normal.clone()
    channels[:, ::100] *= 30

    def codes(values: Tensor, scale: float) -> Tensor:
        return (values * limits.max * scale).round().clamp(limits.min, limits.max).to(dtype)

    single = torch.zeros(50, count)
    single[:, 7] = spread[:, 0] * 0.8
    assert float(errors(codes(normal, 0.25), 1, centre).max()) < 0.0016
    assert float(errors(codes(channels, 0.02), 1, centre).max()) < 0.0019
    found = float(errors(codes(single, 1), 1, centre).max())
    assert found < alone <= (1.501 + 4.7e-5 * 2**10 * count**0.5) / 2**10


def test_equal_values_are_nothing_once_centred_and_one_otherwise() -> None:
    x = torch.full((3, 7), -113, dtype=torch.int8)
    assert fxp.normalize(x, 1, True).eq(0).all()
    assert (fxp.normalize(x, 1, False) + 1024).abs().max() <= 1


def test_a_centred_row_does_not_feel_what_is_added_to_it_and_each_row_stands_alone() -> None:
    x = torch.randint(-128, 128, (2, 3, 20), generator=torch.Generator().manual_seed(0)).to(torch.int16)
    whole = fxp.normalize(x, 5, True)
    assert torch.equal(whole, fxp.normalize(x + 20000, 5, True))
    assert not torch.equal(fxp.normalize(x, 5, False), fxp.normalize(x + 20000, 5, False))
    assert torch.equal(whole[1, 2], fxp.normalize(x[1, 2], 5, True))


def normalized(shape: tuple[int, ...] = (1, 4), dtype: torch.dtype = torch.int8, epsilon: int = 1, centre: bool = True) -> Program:
    return built(shape, lambda edit, x: edit.call(fxp.normalize.default, x, epsilon, centre, name="u"), dtype=dtype)


def proved(program: Program) -> tuple[dict[str, Fact], Interval]:
    ranges = integer_ranges(program.graph, program.tensors)
    return {fact.what: fact for fact in ranges.facts}, ranges.intervals[program.outputs()[0]]


def test_the_facts_computed_by_hand() -> None:
    facts, interval = proved(normalized(epsilon=10))
    assert {what: (fact.low, fact.high) for what, fact in facts.items()} == {
        "sum and multiple of a value": (-4 * 128, 4 * 128),
        "multiple of the sum of squares": (-(16 * 128**2), 16 * 128**2),
        "moment and epsilon": (10, 10 + (4 * 255) ** 2 // 4),
        "deviation and rounding term": (-3 * 255 - 2**20, 3 * 255 + 2**20),
        "product and rounding term": (-(1776 << 14) - 2**13, (1776 << 14) + 2**13),
    }
    assert (int(interval.low), int(interval.high)) == (-1776, 1776)  # isqrt(3 * 2**20) + 1 = 1774, and 2
    assert int(proved(normalized(centre=False))[1].high) == 2**11 + 1 + 2


@pytest.mark.parametrize("count", [2, 3, 64, 768, 4096])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("centre", [True, False])
def test_extreme_rows_stay_inside_what_is_proved(count: int, dtype: torch.dtype, centre: bool) -> None:
    """One value that differs, up or down, in rows of either end or of zeros; half and half; the largest product is reached nearly."""
    limits, program = torch.iinfo(dtype), normalized((1, count), dtype, centre=centre)
    ends = [limits.min, 0, limits.max]
    x = torch.tensor([[other] + [one] * (count - 1) for one in ends for other in (*ends, one + (one < limits.max))])
    x = torch.cat([x, torch.tensor([ends[0], ends[2]]).repeat(count)[None, :count]]).to(dtype)
    verify(program)
    facts, interval = proved(program)
    (u,) = program.run(x)
    assert int(interval.low) <= int(u.min()) <= int(u.max()) <= int(interval.high)
    assert int(u.max()) >= int(interval.high) - 8
    for row in x.tolist():
        deviations, moment = parts(row, 1, centre)
        root, h = (int(part) for part in rsqrt(torch.tensor(moment)))
        assert 1 <= moment <= facts["moment and epsilon"].high
        assert max(map(abs, deviations)) + (1 << h >> 10) <= facts["deviation and rounding term"].high
        scaled = max(abs((d + (1 << h - 10)) >> (h - 9) if h > 9 else d << (9 - h)) for d in deviations)
        assert scaled * ((root + 1) >> 1) + 2**13 <= facts["product and rounding term"].high


@pytest.mark.parametrize("count", [1, 4097])
def test_rows_whose_arithmetic_does_not_fit_are_refused(count: int) -> None:
    with pytest.raises(ProgramError, match=f"rows of {count} values, expected 2 to 4096"):
        normalized((1, count))


def test_a_symbolic_row_is_refused() -> None:
    with pytest.raises(ProgramError, match="expected a fixed last dimension"):
        several([((2, "n"), torch.int8)], lambda edit, x: edit.call(fxp.normalize.default, x, 1, True))


@pytest.mark.parametrize(
    ("epsilon", "reason"),
    [
        (0, r"moment and epsilon reaches \[0, "),
        (-3, r"moment and epsilon reaches \[-3, "),
        (2**62 - 100, "outside .1, 4611686018427387903"),
    ],
)
def test_an_epsilon_outside_the_root_is_refused(epsilon: int, reason: str) -> None:
    with pytest.raises(VerifyError, match=reason):
        verify(normalized(epsilon=epsilon))


def test_a_wide_operand_is_refused() -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        return edit.call(fxp.normalize.default, edit.call(fxp.multiply.default, x, x), 1, True)

    with pytest.raises(VerifyError, match=r"x is torch\.int32, expected"):
        verify(built((1, 4), body, dtype=torch.int8))


def test_dimensions_before_the_rows_may_be_symbolic() -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        return edit.call(fxp.normalize.default, edit.call(aten.transpose.int, x, 0, 1), 1, True)

    program = several([(("batch", "tokens", 6), torch.int8)], body)
    verify(program)
    assert program.shape_of(program.outputs()[0]) == ("tokens", "batch", 6)
