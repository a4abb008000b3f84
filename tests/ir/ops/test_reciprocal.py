"""The reciprocal of fxp::softmax and fxp::attention, held to exact rationals over every mantissa."""

from __future__ import annotations

from fractions import Fraction

import torch
from fxpress_ir.ops.reciprocal import RECIPROCAL_LIMIT, RECIPROCAL_MOST, RECIPROCAL_TABLE, reciprocal


def test_the_table_is_the_rounded_reciprocal_in_the_middle_of_each_interval() -> None:
    expected = [round(Fraction(2**46) / (Fraction(2 * i + 513, 2) * 2**22)) for i in range(256)]
    assert list(RECIPROCAL_TABLE) == expected
    assert 2**15 < min(expected) <= max(expected) <= 2**16


def test_every_mantissa_is_within_its_bound() -> None:
    """R is constant while m rounds to one multiple of 2**15 and lies in one of the table's intervals, so the ends decide."""
    multiples = torch.arange(2**15, 2**16 + 1) << 15
    ends = torch.cat([multiples + offset for offset in (-(2**14), -1, 0, 2**14 - 1)])
    ends = ends[(ends >= 2**30) & (ends < RECIPROCAL_LIMIT)]
    factor, n = reciprocal(ends)
    assert n.unique().tolist() == [30]
    assert (int(factor.min()), int(factor.max())) == (2**15, RECIPROCAL_MOST)
    error = (factor * ends - (1 << 46)).abs()  # of R * m against 2**46, below 2**31
    assert 2.60e-5 < float(error.max()) / 2**46 < 2.61e-5 < 2**-15


def test_smaller_numbers_have_the_factor_of_their_mantissa() -> None:
    s = torch.cat([torch.arange(1, 5000), torch.tensor([2**k + d for k in range(13, 31) for d in (-1, 0, 1)])])
    factor, n = reciprocal(s)
    assert n.tolist() == [value.bit_length() - 1 for value in s.tolist()]
    assert torch.equal(factor, reciprocal(s << (30 - n))[0])
    assert factor[n.float() == torch.log2(s.float())].eq(RECIPROCAL_MOST).all()  # powers of two exactly


def test_nothing_counts_as_one() -> None:
    assert [part.tolist() for part in reciprocal(torch.tensor([0, 1], dtype=torch.int32))] == [[65536, 65536], [0, 0]]


def test_products_of_the_newton_step_fit_32_bits() -> None:
    multiples = torch.arange(2**15, 2**16 + 1) << 15
    start = torch.tensor(RECIPROCAL_TABLE)[((multiples >> 22) - 256).clamp(max=255)]
    product = (multiples >> 15) * start
    assert int(product.max()) < 2**32
    rest = 2**31 - product
    assert int(rest.abs().max()) < 2**23
    assert int((start * (rest >> 8)).abs().max()) + 2**22 < 2**31
