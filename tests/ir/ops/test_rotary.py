"""fxp::rotary, held to exact rationals; its proof rule to the extremes; its operands to their shapes."""

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
from support import aten, built, fxp
from torch import Tensor, fx

RESULTS = ((-128, 127, torch.int8), (0, 255, torch.uint8), (-7, 100, torch.int8), (-32768, 32767, torch.int16))
LEAST = torch.full((4,), -32768, dtype=torch.int16)
exact = settings(max_examples=100, deadline=None, derandomize=True)


def drawn(draw: st.DrawFn, shape: tuple[int, ...], low: int, high: int, dtype: torch.dtype) -> Tensor:
    """Random integers, or the two ends only."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    ends = torch.tensor([low, high])[torch.randint(0, 2, shape, generator=generator)]
    return (ends if draw(st.booleans()) else torch.randint(low, high + 1, shape, generator=generator)).to(dtype)


@st.composite
def rotations(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, int, tuple[int, int, torch.dtype]]:
    """x of any rank, tables of Q14 or, for bytes, of the whole of int16, spread over some dimensions."""
    lead, length, half = draw(st.lists(st.integers(1, 3), max_size=2)), draw(st.integers(1, 4)), draw(st.integers(1, 5))
    dtype = draw(st.sampled_from([torch.int8, torch.int16]))
    limits, most = torch.iinfo(dtype), 32767 if dtype == torch.int8 else 16384
    x = drawn(draw, (*lead, length, 2 * half), limits.min, limits.max, dtype)
    shape = draw(st.sampled_from([(length, 2 * half), (2 * half,), (1,) * len(lead) + (length, 2 * half), x.shape, (length, 1)]))
    tables = [drawn(draw, tuple(shape), -most, most, torch.int16) for _ in range(2)]
    return x, *tables, draw(st.integers(1, 15)), draw(st.sampled_from(RESULTS))  # type: ignore[return-value]


@exact
@given(rotations())
def test_each_pair_is_turned_and_rounded_once(case: tuple[Tensor, Tensor, Tensor, int, tuple[int, int, torch.dtype]]) -> None:
    x, cosine, sine, c, (qmin, qmax, dtype) = case
    y = fxp.rotary(x, cosine, sine, c, qmin, qmax, dtype)
    assert (y.dtype, y.shape) == (dtype, x.shape)
    half = x.shape[-1] // 2
    cosines, sines = (table.expand(x.shape).reshape(-1, 2 * half).tolist() for table in (cosine, sine))
    for row, found, cos, sin in zip(x.reshape(-1, 2 * half).tolist(), y.reshape(-1, 2 * half).tolist(), cosines, sines, strict=True):
        turned = [-value for value in row[half:]] + row[:half]
        sums = [value * c0 + other * s0 for value, other, c0, s0 in zip(row, turned, cos, sin, strict=True)]
        assert found == [min(max(round(Fraction(total, 2**c)), qmin), qmax) for total in sums]
        inside = [(value, total) for value, total in zip(found, sums, strict=True) if qmin < value < qmax]
        assert all(abs(value - Fraction(total, 2**c)) <= Fraction(1, 2) for value, total in inside)


def test_a_rotation_keeps_lengths_and_composes_as_angles_add() -> None:
    """16-bit values, Q14 tables: what turns by a and by b is within rounding of what turns by a + b."""
    x = torch.randint(-20000, 20000, (200, 2), generator=torch.Generator().manual_seed(0)).to(torch.int16)

    def turned(value: Tensor, angle: float) -> Tensor:
        tables = [torch.tensor([f(torch.tensor(angle)) * 2**14]).round().to(torch.int16) for f in (torch.cos, torch.sin)]
        return fxp.rotary(value, *tables, 14, -32768, 32767, torch.int16)

    lengths = [value.double().norm(dim=-1) for value in (x, turned(x, 0.7))]
    assert float((lengths[0] - lengths[1]).abs().max()) < 4
    assert int((turned(turned(x, 0.7), 0.4).int() - turned(x, 1.1).int()).abs().max()) <= 6


def rotated(
    dtype: torch.dtype = torch.int8,
    shape: tuple[int, ...] = (3, 4),
    cosine: Tensor | None = None,
    sine: Tensor | None = None,
    c: int = 14,
    limits: Any = (-128, 127, torch.int8),
) -> Program:
    full = torch.full((3, 4), 16384, dtype=torch.int16)

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        tables = [edit.add_tensor(name, full if t is None else t) for name, t in (("cosine", cosine), ("sine", sine))]
        return edit.call(fxp.rotary.default, x, *tables, c, *limits)

    return built((1, *shape), body, dtype=dtype)


@exact
@given(st.integers(-32768, 32767), st.integers(-32768, 32767), st.integers(-32768, 32767), st.integers(1, 15), st.sampled_from(RESULTS))
def test_every_value_lies_in_its_proved_interval(cos: int, sin: int, other: int, c: int, limits: Any) -> None:
    cosine, sine = (torch.tensor([[value, other, 0, 1]] * 3).to(torch.int16) for value in (cos, sin))
    program = rotated(cosine=cosine, sine=sine, c=c, limits=limits)
    verify(program)
    ranges = integer_ranges(program.graph, program.tensors)
    (node,) = (node for node in program.graph.nodes if node.target is fxp.rotary.default)
    (reach,) = (fact for fact in ranges.facts if "any order" in fact.what)
    corners = torch.cartesian_prod(*[torch.tensor([-128, 0, 127], dtype=torch.int8)] * 4)
    for first in range(0, 81, 3):
        x = corners[None, first : first + 3]
        (y,) = program.run(x)
        interval = ranges.intervals[node]
        assert int(interval.low) <= int(y.min()) <= int(y.max()) <= int(interval.high)
        wide = x.int(), torch.cat([-x[..., 2:].int(), x[..., :2].int()], -1)
        terms = [value * table.int() for value, table in zip(wide, (cosine, sine), strict=True)]
        assert max(int(sum(terms).abs().max()), *(int(term.abs().max()) for term in terms)) + 2**c <= reach.high  # type: ignore[union-attr]


def test_bounds_are_those_of_the_signs() -> None:
    """Values of one sign under a cosine of one sign and no sine keep the sign."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        positive = edit.call(fxp.requantize.default, x, edit.add_tensor("b", torch.tensor([1], dtype=torch.int32)), 1, 0, 50, 1, torch.int8)
        tables = [edit.add_tensor(name, torch.full((1, 4), v, dtype=torch.int16)) for name, v in (("cosine", 8192), ("sine", 0))]
        return edit.call(fxp.rotary.default, positive, *tables, 13, -128, 127, torch.int8)

    program = built((1, 3, 4), body, dtype=torch.int8)
    interval = integer_ranges(program.graph, program.tensors).intervals[program.outputs()[0]]
    assert (int(interval.low), int(interval.high)) == (0, 50)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (lambda: rotated(torch.int16, c=15), None),
        (
            lambda: rotated(torch.int16, cosine=LEAST, sine=LEAST),
            r"reaches \[-2147500032, 2147500032\], outside \[-2147483648, 2147483647\]",
        ),
        (lambda: rotated(c=16), r"shift reaches \[16, 16\], outside \[1, 15\]"),
        (lambda: rotated(c=0), r"shift reaches \[0, 0\], outside \[1, 15\]"),
        (lambda: rotated(limits=(0, 255, torch.int8)), r"result reaches \[0, 255\], outside \[-128, 127\]"),
        (lambda: rotated(torch.uint8), "x is torch.uint8, expected torch.int8 or torch.int16"),
        (lambda: rotated(sine=torch.ones(4, dtype=torch.int8)), "sine is torch.int8, expected torch.int16"),
    ],
    ids=["16 bits fit Q14", "sum", "shift 16", "shift 0", "result", "unsigned", "table"],
)
def test_the_verifier(program: Any, reason: str | None) -> None:
    if reason is None:
        verify(program())
        return
    with pytest.raises(VerifyError, match=reason):
        verify(program())


@pytest.mark.parametrize(
    ("shape", "table", "reason"),
    [
        ((3, 5), (3, 5), "expected an even last dimension"),
        ((3, 4), (2, 4), "does not go into"),
        ((3, 4), (3, 2), "does not go into"),
        ((3, 4), (1, 1, 3, 4), "does not go into"),
    ],
)
def test_operands_that_do_not_fit_do_not_propagate(shape: tuple[int, ...], table: tuple[int, ...], reason: str) -> None:
    with pytest.raises(ProgramError, match=reason):
        rotated(shape=shape, cosine=torch.ones(table, dtype=torch.int16), sine=torch.ones(shape, dtype=torch.int16))


def test_a_table_as_long_as_the_batch_of_the_example_does_not_fit_other_batches() -> None:
    with pytest.raises(ProgramError, match=r"does not go into|at other sizes"):
        rotated(shape=(4,), cosine=torch.ones(2, 4, dtype=torch.int16))


def test_tables_may_be_moved() -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        tables = []
        for name in ("cosine", "sine"):
            table = edit.add_tensor(name, torch.arange(36, dtype=torch.int16).reshape(9, 4) * 400)
            tables.append(edit.call(aten.unsqueeze.default, edit.call(aten.slice.Tensor, table, 0, 0, 3), 0))
        return edit.call(fxp.rotary.default, x, *tables, 13, -128, 127, torch.int8)

    program = built((1, 3, 4), body, dtype=torch.int8)
    verify(program)
    x = torch.randint(-128, 128, (5, 3, 4), generator=torch.Generator().manual_seed(3)).to(torch.int8)
    table = torch.arange(36, dtype=torch.int16).reshape(9, 4)[:3] * 400
    assert torch.equal(program.run(x)[0], fxp.rotary(x, table, table, 13, -128, 127, torch.int8))
