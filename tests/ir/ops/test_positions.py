"""fxp::positions, held to its definition in Python integers, its proof to the ends of rows."""

from __future__ import annotations

import pytest
import torch
from fxpress_ir import Program, verify
from fxpress_ir.analysis.ranges import integer_ranges
from fxpress_ir.errors import VerifyError
from hypothesis import given, settings
from hypothesis import strategies as st
from several import several
from support import fxp

exact = settings(max_examples=80, deadline=None, derandomize=True)
NUMBERS = st.tuples(st.integers(-9, 9), st.integers(-9, 9), st.none() | st.integers(-9, 9))


@exact
@given(st.lists(st.booleans(), min_size=1, max_size=30), NUMBERS)
def test_positions_are_their_definition(row: list[bool], numbers: tuple[int, int, int | None]) -> None:
    offset, least, hidden = numbers
    y = fxp.positions(torch.tensor([row]), *numbers)
    counts = [max(sum(row[: place + 1]) + offset, least) for place in range(len(row))]
    assert y.dtype == torch.int64
    assert y[0].tolist() == [count if shown or hidden is None else hidden for count, shown in zip(counts, row, strict=True)]


def _program(offset: int, least: int, hidden: int | None, dtype: torch.dtype = torch.bool, most: int | None = 40) -> Program:
    maxima = {} if most is None else {"seq": most}
    return several([(("batch", "seq"), dtype)], lambda edit, x: edit.call(fxp.positions.default, x, offset, least, hidden), maxima)


@pytest.mark.parametrize(
    ("numbers", "interval"), [((-1, -5, 1), (-1, 39)), ((-1, 0, None), (0, 39)), ((1, -9, 50), (1, 50)), ((0, -9, -3), (-3, 40))]
)
def test_the_interval_is_that_of_the_longest_row(numbers: tuple[int, int, int | None], interval: tuple[int, int]) -> None:
    program = _program(*numbers)
    verify(program)
    found = integer_ranges(program.graph, program.tensors).intervals[program.outputs()[0]]
    assert (int(found.low), int(found.high)) == interval


def test_any_length_and_other_types_are_refused() -> None:
    with pytest.raises(VerifyError, match="number of positions"):
        verify(_program(0, 0, None, most=None))
    with pytest.raises(VerifyError, match=r"mask is torch\.int64, expected torch\.bool"):
        verify(_program(0, 0, None, torch.int64))
