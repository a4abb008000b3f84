"""fxp::softmax, held to its definition in Python integers and to exact rationals."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from fxpress_ir import Program, verify
from fxpress_ir.analysis.ranges import integer_ranges
from fxpress_ir.errors import ProgramError, VerifyError
from fxpress_ir.ops import RECIPROCAL_TABLE
from hypothesis import given, settings
from hypothesis import strategies as st
from several import several
from support import exponentials, fxp
from torch import Tensor

exact = settings(max_examples=40, deadline=None, derandomize=True)
TABLE = exponentials(1 << 14).int()
RESULTS = {8: (255, torch.uint8), 15: (32767, torch.int16)}


@st.composite
def rows(draw: st.DrawFn) -> list[int]:
    """Short rows, rows of a power of two equal values, rows whose sum is large."""
    values = draw(st.lists(st.integers(-128, 127), min_size=1, max_size=40))
    return values * draw(st.sampled_from([1, 1, 1, 64, 1024]))


def reciprocal(total: int) -> tuple[int, int]:
    """dyadic.md, section 2.1."""
    n = total.bit_length() - 1
    m = total << (30 - n)
    start = RECIPROCAL_TABLE[(m >> 22) - 256]
    rest = 2**31 - ((m + 2**14) >> 15) * start
    return start + ((start * (rest >> 8) + 2**22) >> 23), n


@exact
@given(rows(), st.sampled_from([8, 15]), st.sampled_from([0.5, 0.05, 0.001]))
def test_softmax_is_its_definition_within_its_bound(row: list[int], bits: int, scale: float) -> None:
    table = exponentials(1 << 14, scale).int()
    (most, dtype), weights = RESULTS[bits], [int(table[max(row) - x]) for x in row]
    y = fxp.softmax(torch.tensor([row], dtype=torch.int8), table, bits)
    assert (y.dtype, y.shape) == (dtype, (1, len(row)))
    factor, n = reciprocal(sum(weights))
    shift = min(16 + n - bits, 31)
    assert y[0].tolist() == [min((e * factor + (1 << (shift - 1))) >> shift, most) for e in weights]
    if 16 + n - bits <= 31:
        shares = [Fraction(e << bits, sum(weights)) for e in weights]
        bound = Fraction(1, 2) + Fraction(2**bits, 2**15)
        assert all(abs(p - share) <= bound or p == most < share for p, share in zip(y[0].tolist(), shares, strict=True))


def test_a_long_row_of_equal_scores_keeps_within_32_bits() -> None:
    """The largest product and rounding term, 2**31; the shift held at 31 rounds up where the sum is a power of two."""
    x = torch.zeros(2**16, dtype=torch.int8)
    assert fxp.softmax(x, TABLE, 8).unique().tolist() == [1]
    assert fxp.softmax(x[:-1], TABLE, 8).unique().tolist() == [0]
    x[2**15] = -128
    assert fxp.softmax(x[: 2**15 + 1], TABLE, 8).tolist() == [1] * 2**15 + [0]  # above a power of two by a share of 2**-24
    x[2**15] = 0
    assert fxp.softmax(x, TABLE, 15).unique().tolist() == [1]  # 2**15 / 2**16, rounded half up


def test_one_score_takes_all() -> None:
    x = torch.tensor([[127, -128, -128]], dtype=torch.int8)
    assert fxp.softmax(x, TABLE, 8).tolist() == [[255, 0, 0]]
    assert fxp.softmax(x, TABLE, 15).tolist() == [[32767, 0, 0]]


def test_a_softmax_is_close_to_that_of_floats() -> None:
    x = torch.randint(-128, 128, (50, 197), generator=torch.Generator().manual_seed(0), dtype=torch.int8)
    wanted = torch.softmax(x.double() * 0.05, -1)
    assert float((fxp.softmax(x, TABLE, 8) / 2**8 - wanted).abs().max()) < 0.0021  # dyadic.md, section 2.3
    assert float((fxp.softmax(x, TABLE, 15) / 2**15 - wanted).abs().max()) < 1e-4  # of exp in Q14


def program(table: Tensor = TABLE, bits: int = 8, keys: int | None = 64, dtype: torch.dtype = torch.int8) -> Program:
    def body(edit: Any, x: Any) -> Any:
        return edit.call(fxp.softmax.default, x, edit.add_tensor("table", table), bits)

    return several([(("batch", "keys"), dtype)], body, {} if keys is None else {"keys": keys})


@pytest.mark.parametrize("bits", [8, 15])
def test_every_value_lies_in_its_proved_interval(bits: int) -> None:
    made = program(bits=bits)
    verify(made)
    interval = integer_ranges(made.graph, made.tensors).intervals[made.outputs()[0]]
    assert (int(interval.low), int(interval.high)) == (0, RESULTS[bits][0])
    for keys in (1, 3, 64):
        x = torch.full((2, keys), -128, dtype=torch.int8)
        x[:, 0] = 127
        (y,) = made.run(x)
        assert (y.dtype, int(y.max())) == (RESULTS[bits][1], RESULTS[bits][0])


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: program(keys=2**16), None),
        (lambda: program(keys=None), r"number of values in a row \(declare the dimension with Dim\(max=N\)\)"),
        (lambda: program(keys=2**17), r"number of values in a row reaches \[0, 131072\], outside \[0, 65536\]"),
        (lambda: program(TABLE * 2), r"exponential reaches \[\d+, 32768\], outside \[0, 16384\]"),
        (lambda: program(TABLE - 1), r"exponential reaches \[-1, 16383\]"),
        (lambda: program(TABLE.flip(0) * 0), r"exponential of 0 reaches \[0, 0\], outside \[1, 16384\]"),
        (lambda: program(TABLE.short()), "table is torch.int16, expected torch.int32"),
        (lambda: program(dtype=torch.uint8), "x is torch.uint8, expected torch.int8"),
    ],
    ids=["65536 keys", "unbounded", "131072 keys", "large", "negative", "nothing", "table's type", "unsigned"],
)
def test_the_verifier(made: Any, reason: str | None) -> None:
    if reason is None:
        verify(made())
        return
    with pytest.raises(VerifyError, match=reason):
        verify(made())


@pytest.mark.parametrize(
    ("table", "bits", "reason"), [(TABLE[:255], 8, r"the table has shape \[255\]"), (TABLE, 9, "9 bits, expected 8 or 15")]
)
def test_operands_that_the_kernel_could_not_take_do_not_propagate(table: Tensor, bits: int, reason: str) -> None:
    with pytest.raises(ProgramError, match=reason):
        program(table, bits)
