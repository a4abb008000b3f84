"""fxp::matmul, held to sums of Python integers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fxpress_ir import Program, verify
from fxpress_ir.analysis.ranges import integer_ranges
from fxpress_ir.errors import ProgramError, VerifyError
from hypothesis import given, settings
from hypothesis import strategies as st
from several import Shape, several
from support import fxp
from torch import Tensor
from torch._subclasses import FakeTensorMode

exact = settings(max_examples=80, deadline=None, derandomize=True)
BYTES = (torch.int8, torch.uint8)


def drawn(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Random integers, or the two ends only."""
    limits, generator = torch.iinfo(dtype), torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    anything = torch.randint(limits.min, limits.max + 1, shape, generator=generator)
    ends = torch.tensor([limits.min, limits.max])[torch.randint(0, 2, shape, generator=generator)]
    return (ends if draw(st.booleans()) else anything).to(dtype)


@st.composite
def products(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Up to two leading dimensions, each equal or 1 on one side."""
    lead = draw(st.lists(st.integers(1, 3), max_size=2))
    rows, terms, columns = (draw(st.integers(1, most)) for most in (4, 40, 5))
    shapes = [[draw(st.sampled_from([size, 1])) if side == draw(st.integers(0, 1)) else size for size in lead] for side in (0, 1)]
    x, y = ((rows, terms), (terms, columns))
    return drawn(draw, (*shapes[0], *x), draw(st.sampled_from(BYTES))), drawn(draw, (*shapes[1], *y), draw(st.sampled_from(BYTES)))


@exact
@given(products())
def test_matmul_is_the_exact_sum_and_its_fake_kernel_gives_its_shape(case: tuple[Tensor, Tensor]) -> None:
    acc = fxp.matmul(*case)
    assert acc.dtype == torch.int32
    assert np.array_equal(acc.numpy(), case[0].numpy().astype(object) @ case[1].numpy().astype(object))
    with FakeTensorMode() as mode:
        fake = fxp.matmul(*map(mode.from_tensor, case))
    assert (fake.shape, fake.dtype) == (acc.shape, acc.dtype)


@pytest.mark.parametrize(("x", "y", "most"), [(255, 255, 33025), (255, -128, 65793), (-128, -128, 131071)])
def test_the_longest_sum_of_extremes_that_fits_is_exact(x: int, y: int, most: int) -> None:
    """dyadic.md, section 1.5."""
    dtypes = [torch.uint8 if value > 0 else torch.int8 for value in (x, y)]
    operands = torch.full((1, most), x, dtype=dtypes[0]), torch.full((most, 1), y, dtype=dtypes[1])
    assert fxp.matmul(*operands).item() == most * x * y
    assert -(2**31) <= most * x * y < 2**31 <= abs((most + 1) * x * y)


def product(x: Shape, y: Shape, dtypes: tuple[torch.dtype, torch.dtype] = BYTES, terms: int | None = 64) -> Program:
    inputs = list(zip((x, y), dtypes, strict=True))
    return several(inputs, lambda edit, *xs: edit.call(fxp.matmul.default, *xs), {} if terms is None else {"terms": terms})


@pytest.mark.parametrize("dtypes", [(x, y) for x in BYTES for y in BYTES], ids=str)
def test_the_proved_interval_is_reached(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    program = product(("batch", 2, 5), ("batch", 5, 3), dtypes)
    (node,), ranges = program.outputs(), integer_ranges(program.graph, program.tensors)
    ends = [torch.iinfo(dtype) for dtype in dtypes]
    sums = [
        int(program.run(torch.full((1, 2, 5), x, dtype=dtypes[0]), torch.full((1, 5, 3), y, dtype=dtypes[1]))[0].unique())
        for x in (ends[0].min, ends[0].max)
        for y in (ends[1].min, ends[1].max)
    ]
    interval = ranges.intervals[node]
    assert (int(interval.low), int(interval.high)) == (min(sums), max(sums))
    assert ranges.facts[-1].high == 5 * max(abs(ends[0].min), ends[0].max) * max(abs(ends[1].min), ends[1].max)


def test_a_dynamic_number_of_terms_is_bounded_by_its_maximum() -> None:
    program = product(("batch", 2, "terms"), ("batch", "terms", 3), terms=64)
    verify(program)
    interval = integer_ranges(program.graph, program.tensors).intervals[program.outputs()[0]]
    assert (int(interval.low), int(interval.high)) == (64 * -128 * 255, 64 * 127 * 255)
    x, y = torch.ones(3, 2, 7, dtype=torch.int8), torch.ones(3, 7, 3, dtype=torch.uint8)
    assert program.run(x, y)[0].unique().tolist() == [7]
    assert program.cost(batch=3, terms=7).macs == 3 * 2 * 7 * 3


@pytest.mark.parametrize(
    ("terms", "dtypes", "reason"),
    [
        (None, BYTES, r"number of products in a sum \(declare the dimension with Dim\(max=N\)\)"),
        (33026, (torch.uint8, torch.uint8), r"accumulator \(any order\) reaches \[-2147515650, 2147515650\]"),
    ],
)
def test_sums_that_may_leave_32_bits_are_refused(terms: int | None, dtypes: tuple[torch.dtype, torch.dtype], reason: str) -> None:
    program = product(("batch", 2, "terms"), ("batch", "terms", 3), dtypes, terms)
    with pytest.raises(VerifyError, match=reason):
        verify(program)


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        (("batch", 2, 5), ("batch", 4, 3), "rows of 5 values meet columns of 4"),
        (("batch", 2, 5), (5, 3), "ranks 3 and 2"),
        (("batch", 3, 2, 5), ("batch", 2, 5, 3), "leading dimensions of 3 and 2"),
    ],
)
def test_operands_that_do_not_fit_do_not_propagate(x: Shape, y: Shape, reason: str) -> None:
    with pytest.raises(ProgramError, match=reason):
        product(x, y)


def test_16_bit_operands_are_refused() -> None:
    with pytest.raises(VerifyError, match=r"y is torch.int16, expected torch.int8 or torch.uint8"):
        verify(product(("batch", 2, 5), ("batch", 5, 3), (torch.int8, torch.int16)))
