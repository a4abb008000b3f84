"""fxp::affine, held to exact rationals; its proof rule to every corner; its gains and offsets to the channels."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from fxpress_ir import Edit, Program, verify
from fxpress_ir.analysis.ranges import integer_ranges
from fxpress_ir.errors import ProgramError, VerifyError
from hypothesis import given, settings
from hypothesis import strategies as st
from support import built, fxp, multipliers
from torch import Tensor, fx

RESULTS = ((-128, 127, torch.int8), (0, 255, torch.uint8), (-7, 100, torch.int8), (-32768, 32767, torch.int16))
OPERANDS = (torch.int8, torch.uint8, torch.int16, torch.int32)


@st.composite
def maps(draw: st.DrawFn) -> tuple[Tensor, list[int], list[int], int]:
    """u [9, channels], g and b one a channel or one for all, c, with |u * g| + |b| + 2**c below 2**31; ties among the sums."""
    dtype, c, channels = draw(st.sampled_from(OPERANDS)), draw(st.integers(1, 24)), draw(st.integers(1, 4))
    limits = (-65543, 65543) if dtype == torch.int32 else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    reach = min(2**15 - 1, (2**31 - 1 - (1 << c)) // 2 // max(map(abs, limits)))
    gains = st.one_of(st.integers(-reach, reach), st.sampled_from([1 << k for k in range(reach.bit_length() - 1)] + [-reach, reach, 0]))
    offsets = st.one_of(st.integers(-(2**29), 2**29), st.sampled_from([0, 1 << c >> 1, 3 << c >> 1, -(1 << c >> 1)]))
    g = draw(st.lists(gains, min_size=channels, max_size=channels)) if draw(st.booleans()) else [draw(gains)]
    b = draw(st.lists(offsets, min_size=channels, max_size=channels)) if draw(st.booleans()) else [draw(offsets)]
    values = st.one_of(st.integers(*limits), st.sampled_from(limits), st.integers(-3, 3).filter(lambda value: value >= limits[0]))
    u = draw(st.lists(st.lists(values, min_size=channels, max_size=channels), min_size=9, max_size=9))
    return torch.tensor(u, dtype=dtype), g, b, c


@given(maps(), st.sampled_from(RESULTS))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_the_sum_is_rounded_once(case: tuple[Tensor, list[int], list[int], int], limits: tuple[int, int, torch.dtype]) -> None:
    u, g, b, c = case
    qmin, qmax, dtype = limits
    y = fxp.affine(u, multipliers(g), multipliers(b), c, qmin, qmax, -1, dtype)
    assert y.dtype == dtype
    gains, offsets = (values * (u.shape[1] // len(values)) for values in (g, b))
    for row, found in zip(u.tolist(), y.tolist(), strict=True):
        sums = [value * gain + offset for value, gain, offset in zip(row, gains, offsets, strict=True)]
        assert found == [min(max(round(Fraction(total, 2**c)), qmin), qmax) for total in sums]


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_each_channel_has_its_gain_and_offset_along_any_axis(axis: int) -> None:
    generator = torch.Generator().manual_seed(1)
    u = torch.randint(-60_000, 60_000, (3, 4, 5), generator=generator, dtype=torch.int32)
    g, b = (torch.randint(-(2**bits), 2**bits, (u.shape[axis],), generator=generator, dtype=torch.int32) for bits in (13, 20))
    y = fxp.affine(u, g, b, 20, -128, 127, axis, torch.int8)
    for channel in range(u.shape[axis]):
        one = fxp.affine(u.select(axis, channel), g[[channel]], b[[channel]], 20, -128, 127, 0, torch.int8)
        assert torch.equal(y.select(axis, channel), one)


def test_an_operand_is_not_written_to() -> None:
    u = torch.tensor([-300, 300], dtype=torch.int32)
    fxp.affine(u, multipliers([1]), multipliers([0]), 1, -1, 1, 0, torch.int8)
    assert u.tolist() == [-300, 300]


def mapped(
    g: Any = (3,),
    b: Any = (0,),
    c: int = 4,
    limits: tuple[int, int, torch.dtype] = (-128, 127, torch.int8),
    axis: int = -1,
    dtype: torch.dtype = torch.int16,
) -> Program:
    """An affine map of an input [batch, 3, 4]."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        parts = edit.add_tensor("g", multipliers(g)), edit.add_tensor("b", multipliers(b))
        return edit.call(fxp.affine.default, x, *parts, c, *limits[:2], axis, limits[2], name="y")

    return built((1, 3, 4), body, dtype=dtype)


def test_the_facts_and_the_interval_computed_by_hand() -> None:
    program = mapped((5, -7, 1, 0), (100, -3, 0, 40), 3, (-128, 100, torch.int8), dtype=torch.uint8)
    ranges = integer_ranges(program.graph, program.tensors)
    assert {fact.what: (fact.low, fact.high, fact.least, fact.most) for fact in ranges.facts} == {
        "gain": (-7, 5, -32767, 32767),
        "shift": (3, 3, 1, 24),
        "result": (-128, 100, -128, 127),
        "product, offset and rounding term": (-(255 * 7 + 3 + 8), 255 * 7 + 3 + 8, 1 - 2**31, 2**31 - 1),
    }
    interval = ranges.intervals[program.outputs()[0]]
    assert (int(interval.low), int(interval.high)) == (-128, 100)
    program = mapped((5, -7, 1, 0), (100, -3, 0, 40), 6, dtype=torch.uint8)
    interval = integer_ranges(program.graph, program.tensors).intervals[program.outputs()[0]]
    assert (int(interval.low), int(interval.high)) == (round(-1788 / 64), round(1375 / 64))


@pytest.mark.parametrize("axis", [1, 2])
def test_bounds_by_channel_meet_gains_of_their_own_axis_only(axis: int) -> None:
    """A linear's sums are bounded a channel: [-1, 1] * 127 and [-100, 100] * 127."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        acc = edit.call(fxp.linear.default, x, edit.add_tensor("w", torch.tensor([[1, 0], [0, 100]], dtype=torch.int8)), None)
        parts = edit.add_tensor("g", multipliers([100, 1])), edit.add_tensor("b", multipliers([0]))
        return edit.call(fxp.affine.default, acc, *parts, 1, -32768, 32767, axis, torch.int16)

    program = built((1, 2, 2), body, dtype=torch.int8)
    interval = integer_ranges(program.graph, program.tensors).intervals[program.outputs()[0]]
    (y,) = program.run(torch.tensor([-128, 127], dtype=torch.int8).expand(2, 2, 2))
    assert (int(interval.low), int(interval.high)) == ((-6400, 6350) if axis == 2 else (-32768, 32767))
    assert int(interval.low) <= int(y.min()) <= int(y.max()) <= int(interval.high)


@pytest.mark.parametrize(
    ("g", "b", "c"), [(2**15 - 1, 2**30 - 1, 15), (-(2**15) + 1, 1 - 2**30, 15), (0, 2**31 - 1 - 2**24, 24), (1, 0, 1)]
)
def test_the_largest_sums_are_proved_and_right(g: int, b: int, c: int) -> None:
    program = mapped((g,), (b,), c, (-32768, 32767, torch.int16))
    verify(program)
    x = torch.tensor([[[-32768, -32767, 0, 1], [32766, 32767, -1, 2], [5, 6, 7, 8]]]).to(torch.int16)
    expected = [min(max(round(Fraction(value * g + b, 2**c)), -32768), 32767) for value in x.flatten().tolist()]
    assert program.run(x)[0].flatten().tolist() == expected


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"g": (2**15,)}, r"gain reaches \[32768, 32768\]"),
        ({"g": (0, 1, -(2**15), 3)}, r"gain reaches \[-32768, 3\]"),
        ({"c": 0}, r"shift reaches \[0, 0\]"),
        ({"c": 25}, r"shift reaches \[25, 25\]"),
        ({"limits": (-129, 127, torch.int8)}, "result reaches"),
        ({"b": (2**31 - 2**15 * 3 - 16,)}, "product, offset and rounding term reaches"),
        ({"limits": (-128, 127, torch.int32)}, "dtype is torch.int32, expected"),
    ],
)
def test_arithmetic_that_does_not_fit_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(VerifyError, match=reason):
        verify(mapped(**change))


@pytest.mark.parametrize("change", [{"g": (1, 2, 3)}, {"b": (1, 2, 3)}, {"b": (1, 2, 3, 4), "axis": 1}, {"axis": 3}, {"g": ()}])
def test_gains_that_are_not_one_a_channel_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ProgramError, match=r"values for \d channels|axis 3 of 3 dimensions"):
        mapped(**change)


def test_computed_gains_are_refused() -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        row = edit.call(fxp.multiply.default, x, x)
        return edit.call(fxp.affine.default, x, row, edit.add_tensor("b", multipliers([0])), 4, -128, 127, 0, torch.int8)

    with pytest.raises(VerifyError, match="its g is not a constant"):
        verify(built((4,), body, dtype=torch.int8))
