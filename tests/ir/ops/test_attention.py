"""fxp::attention, held to its definition in Python integers, to exact rationals and to floats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from fxpress_ir import Program, verify
from fxpress_ir.analysis.ranges import integer_ranges
from fxpress_ir.errors import ProgramError, VerifyError
from fxpress_ir.ops import RECIPROCAL_TABLE, Interval
from hypothesis import given, settings
from hypothesis import strategies as st
from several import Attention, Shape
from support import exponentials, fxp
from torch import Tensor
from torch._subclasses import FakeTensorMode

exact = settings(max_examples=80, deadline=None, derandomize=True)
BYTES = (torch.int8, torch.uint8)
TABLE = exponentials(255).to(torch.uint8)
RAW = Attention(ob=2, oc=1, qmin=-32768, qmax=32767, dtype=torch.int16)
"""Gives o itself."""


def drawn(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Random integers, or the two ends only."""
    limits, generator = torch.iinfo(dtype), torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    anything = torch.randint(limits.min, limits.max + 1, shape, generator=generator)
    ends = torch.tensor([limits.min, limits.max])[torch.randint(0, 2, shape, generator=generator)]
    return (ends if draw(st.booleans()) else anything).to(dtype)


Case = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor, Attention]


@st.composite
def attentions(draw: st.DrawFn) -> Case:
    """Up to two leading dimensions; masks and biases spread over some dimensions; queries that see nothing."""
    lead = tuple(draw(st.lists(st.integers(1, 2), max_size=2)))
    queries, keys, depth, width = (draw(st.integers(1, most)) for most in (4, 9, 12, 3))
    q, k = (drawn(draw, (*lead, rows, depth), draw(st.sampled_from(BYTES))) for rows in (queries, keys))
    v = drawn(draw, (*lead, keys, width), draw(st.sampled_from(BYTES)))
    full = (*lead, queries, keys)

    def spread() -> tuple[int, ...]:
        shape = tuple(size if draw(st.booleans()) else 1 for size in full)
        return shape[draw(st.integers(0, len(lead))) :]

    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    mask = torch.rand(spread(), generator=generator) < draw(st.sampled_from([0.1, 0.5, 0.9])) if draw(st.booleans()) else None
    bias = torch.randint(-(2**16), 2**16, spread(), generator=generator, dtype=torch.int32) if draw(st.booleans()) else None
    multipliers = st.one_of(st.integers(1, 32767), st.sampled_from([1 << bit for bit in range(15)]))
    numbers = Attention(
        draw(multipliers), draw(st.integers(1, 16)), draw(multipliers), draw(st.integers(1, 16)), causal=draw(st.booleans())
    )
    limits: Any = draw(st.sampled_from([(-128, 127, torch.int8), (0, 255, torch.uint8), (-20, 90, torch.int8)]))
    return q, k, v, mask, bias, TABLE, replace(numbers, qmin=limits[0], qmax=limits[1], dtype=limits[2])


def clamped(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)


def mean(weighted: int, total: int) -> int:
    """o of dyadic.md, section 2.3, in Python integers."""
    total = max(total, 1)
    n = total.bit_length() - 1
    m = total << (30 - n)
    start = RECIPROCAL_TABLE[(m >> 22) - 256]
    factor = start + ((start * ((2**31 - ((m + 2**14) >> 15) * start) >> 8) + 2**22) >> 23)
    kept = (weighted + (1 << (n - 8))) >> (n - 7) if n > 7 else weighted
    assert abs(kept * factor) + 2**14 < 2**31
    return (kept * factor + 2**14) >> 15


def weights(query: list[int], keys: list[list[int]], shown: list[bool], bias: list[int], numbers: Attention) -> list[int]:
    """The exponentials of one query's scores; `shown` says which keys it sees."""
    sums = [sum(x * y for x, y in zip(query, key, strict=True)) + more for key, more in zip(keys, bias, strict=True)]
    scores = [clamped(round(Fraction(acc * numbers.b, 2**numbers.c)), -128, 127) for acc in sums]
    most = max(score if seen else -128 for score, seen in zip(scores, shown, strict=True))
    return [int(TABLE[most - score]) if seen else 0 for score, seen in zip(scores, shown, strict=True)]


def rows(case: Case) -> Iterator[tuple[list[int], list[list[int]]]]:
    """For each query of each head its exponentials and the values that they weigh."""
    q, k, v, mask, bias, _, numbers = case
    full = (*q.shape[:-1], k.shape[-2])
    shown = (torch.ones(1, dtype=torch.bool) if mask is None else mask).expand(full)
    shown = shown.tril() if numbers.causal else shown
    added = (torch.zeros(1, dtype=torch.int32) if bias is None else bias).expand(full)
    heads = (operand.reshape(-1, *operand.shape[-2:]).tolist() for operand in (q, k, v, shown, added))
    for queries, keys, values, masks, biases in zip(*heads, strict=True):
        for query, sees, more in zip(queries, masks, biases, strict=True):
            yield weights(query, keys, sees, more, numbers), values


def weighted(shares: list[int], values: list[list[int]]) -> list[int]:
    return [sum(e * x for e, x in zip(shares, column, strict=True)) for column in zip(*values, strict=True)]


@exact
@given(attentions())
def test_attention_is_its_definition_and_its_fake_kernel_gives_its_shape(case: Case) -> None:
    *operands, numbers = case
    q, v = operands[0], operands[2]
    y = fxp.attention(*operands, *numbers.numbers)
    assert q is not None
    assert v is not None
    assert (y.dtype, y.shape) == (numbers.dtype, (*q.shape[:-1], v.shape[-1]))
    for found, (shares, values) in zip(y.reshape(-1, y.shape[-1]).tolist(), rows(case), strict=True):
        means = [mean(total, sum(shares)) for total in weighted(shares, values)]
        exactly = [round(Fraction(o * numbers.ob, 2**numbers.oc)) for o in means]
        assert found == [clamped(value, numbers.qmin, numbers.qmax) for value in exactly]
    with FakeTensorMode() as mode:
        fake = fxp.attention(*[None if part is None else mode.from_tensor(part) for part in operands], *numbers.numbers)
    assert (fake.shape, fake.dtype) == (y.shape, y.dtype)


@exact
@given(attentions())
def test_the_mean_is_within_its_bound(case: Case) -> None:
    """|o - 2**8 * O / S| <= 3/2 + 2**-7 * |O / S|."""
    for shares, values in rows(case):
        for total in weighted(shares, values):
            value = Fraction(total, max(sum(shares), 1))
            assert abs(mean(total, sum(shares)) - 256 * value) <= Fraction(3, 2) + abs(value) / 128


def test_attention_is_close_to_that_of_floats() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randint(-128, 128, (2, 3, 197, 64), generator=generator, dtype=torch.int8) for _ in range(3))
    numbers = replace(RAW, b=20)
    scores = (q.double() @ k.double().transpose(-2, -1) * 20 / 2**15).clamp(-128, 127)
    wanted = torch.softmax(scores * 0.05, -1) @ v.double()
    y = fxp.attention(q, k, v, None, None, TABLE, *numbers.numbers) / 2**8
    assert float((y - wanted).pow(2).mean().sqrt()) < 0.3  # in steps of v; dyadic.md, section 2.3


def test_a_query_that_sees_nothing_gives_zero() -> None:
    q, k = (torch.randint(-128, 128, (2, 3, 8), generator=torch.Generator().manual_seed(1), dtype=torch.int8) for _ in range(2))
    v = torch.full((2, 3, 4), 100, dtype=torch.int8)
    mask = torch.tensor([True, False, True]).reshape(1, 3, 1)
    y = fxp.attention(q, k, v, mask, None, TABLE, *RAW.numbers)
    assert y[:, 1].unique().tolist() == [0]
    assert (y[:, [0, 2]] - 25600).abs().max() <= 2
    assert fxp.attention(q, k, v, mask, None, TABLE, *replace(RAW, qmin=7, qmax=900).numbers)[:, 1].unique().tolist() == [7]


@exact
@given(attentions(), st.sampled_from(["mean", "unmasked"]))
def test_what_a_query_that_sees_nothing_gives_is_what_other_operands_give(case: Case, unseen: str) -> None:
    """The mean is that of equal scores, all of which count; unmasked is the result without a mask; other queries are as with zero."""
    q, k, v, mask, bias, table, numbers = case
    assert q is not None
    mask = torch.zeros(1, dtype=torch.bool) if mask is None else mask
    shown = mask.expand(*q.shape[:-1], k.shape[-2])  # type: ignore[union-attr]
    sees = (shown.tril() if numbers.causal else shown).any(-1, keepdim=True)
    alone = (q, k, v, None, bias, table, *numbers.numbers)
    if unseen == "mean":
        alone = (torch.zeros_like(q), k, v, None, None, table, *replace(numbers, causal=False).numbers)
        alone = (*alone[:1], torch.zeros_like(k), *alone[2:])  # type: ignore[arg-type]
    wanted = torch.where(sees, fxp.attention(q, k, v, mask, bias, table, *numbers.numbers), fxp.attention(*alone))
    assert torch.equal(fxp.attention(q, k, v, mask, bias, table, *numbers.numbers, unseen), wanted)


def test_what_it_cannot_give_there_is_refused() -> None:
    with FakeTensorMode() as mode:
        q, table = mode.from_tensor(torch.zeros(1, 2, 4, dtype=torch.int8)), mode.from_tensor(TABLE)
        with pytest.raises(RuntimeError, match="unseen is 'nan', expected one of zero, mean, unmasked"):
            fxp.attention(q, q, q, None, None, table, *RAW.numbers, "nan")


def test_a_hidden_key_has_no_weight_although_its_score_is_the_least() -> None:
    """Every score is -128, and so is the largest: a hidden key would weigh as much as the others."""
    q, k = torch.full((1, 2, 16), 127, dtype=torch.int8), torch.full((1, 3, 16), -127, dtype=torch.int8)
    v = torch.tensor([[[10], [20], [90]]], dtype=torch.int8)
    numbers = replace(RAW, b=16384, c=1)
    mask = torch.tensor([[True, True, False]])
    assert fxp.attention(q, k, v, mask, None, TABLE, *numbers.numbers).tolist() == [[[3840], [3840]]]
    causal = replace(numbers, causal=True).numbers
    assert fxp.attention(q, k, v, None, None, TABLE, *causal).tolist() == [[[2560], [3840]]]


SHAPES: dict[str, tuple[Shape, torch.dtype]] = {
    "q": (("batch", 2, "queries", 8), torch.int8),
    "k": (("batch", 2, "keys", 8), torch.int8),
    "v": (("batch", 2, "keys", 4), torch.int8),
}
MASKED = {**SHAPES, "mask": (("batch", 1, 1, "keys"), torch.bool), "bias": ((1, 2, 1, 1), torch.int32)}


def small(numbers: Attention = RAW, keys: int | None = 64, table: Tensor | None = None, **changed: tuple[Shape, torch.dtype]) -> Program:
    return numbers.program({**SHAPES, **changed}, {} if keys is None else {"keys": keys}, table)


@pytest.mark.parametrize("dtype", BYTES, ids=str)
@pytest.mark.parametrize("numbers", [RAW, Attention(ob=3), Attention(ob=32767, oc=16, qmin=-5, qmax=5)], ids=["raw", "fine", "coarse"])
def test_every_value_lies_in_its_proved_interval(dtype: torch.dtype, numbers: Attention) -> None:
    """v of one value everywhere gives the ends, whatever the weights and the length."""
    program = small(numbers, v=(SHAPES["v"][0], dtype))
    verify(program)
    interval = integer_ranges(program.graph, program.tensors).intervals[program.outputs()[0]]
    limits, reached = torch.iinfo(dtype), []
    for keys in (1, 3, 64):
        q, k = (torch.randint(-128, 128, (2, 2, n, 8), generator=torch.Generator().manual_seed(keys)).to(torch.int8) for n in (5, keys))
        for value in (limits.min, limits.max):
            (y,) = program.run(q, k, torch.full((2, 2, keys, 4), value, dtype=dtype))
            reached += [int(y.min()), int(y.max())]
    assert int(interval.low) <= min(reached) <= max(reached) <= int(interval.high)
    if numbers.ob == 3:
        assert (int(interval.low), int(interval.high)) == (min(reached), max(reached))


def test_the_facts_cover_what_is_computed() -> None:
    """The largest weighted sum, product and total at the longest row: all keys alike, v at an end."""
    program = small(keys=65536)
    facts = {fact.what: fact for fact in integer_ranges(program.graph, program.tensors).facts}
    assert facts["number of keys"].high == 65536
    weighted = facts["weighted sum and rounding term (any order)"]
    assert 65536 * 255 * 128 + 2**15 <= weighted.high < 2**31
    product = facts["normalised product and rounding term"]
    assert abs(mean(65536 * 255 * -128, 65536 * 255)) <= 32768 + 1
    assert product.low <= -(2**30) <= 2**30 - 2**23 <= product.high
    assert facts["score (any order)"].high == 8 * 128 * 128


def test_its_cost_is_that_of_its_two_products() -> None:
    assert small().cost(batch=3, queries=5, keys=7).macs == 3 * 2 * 5 * 7 * (8 + 4)


def test_masks_and_biases_stand_in_a_proved_program() -> None:
    program = RAW.program(MASKED, {"keys": 64})
    with pytest.raises(VerifyError, match=r"score \(any order\)"):  # a bias of any int32
        verify(program)
    program = RAW.program({name: spec for name, spec in MASKED.items() if name != "bias"}, {"keys": 64})
    verify(program)
    assert integer_ranges(program.graph, program.tensors).intervals[program.placeholders()[3]] == Interval.of(0, 1)
    q, k = (torch.randint(-128, 128, (3, 2, n, 8), generator=torch.Generator().manual_seed(n)).to(torch.int8) for n in (4, 6))
    v, mask = k[..., :4].contiguous(), torch.arange(6).reshape(1, 1, 1, 6).expand(3, 1, 1, 6) < 4
    (y,) = program.run(q, k, v, mask.contiguous())
    assert np.array_equal(y.numpy(), fxp.attention(q, k[:, :, :4], v[:, :, :4], None, None, TABLE, *RAW.numbers).numpy())


U8 = (SHAPES["v"][0], torch.uint8)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (lambda: small(keys=65536), None),
        (lambda: small(keys=33000, v=U8), None),
        (lambda: small(keys=None), r"number of keys \(declare the dimension with Dim\(max=N\)\) reaches"),
        (lambda: small(keys=65537), r"number of keys reaches \[0, 65537\], outside \[0, 65536\]"),
        (lambda: small(keys=33026, v=U8), r"weighted sum and rounding term \(any order\) reaches"),
        (lambda: small(table=TABLE // 2), r"exponential of 0 reaches \[127, 127\], outside \[128, 255\]"),
        (lambda: small(table=TABLE.int()), "table is torch.int32, expected torch.uint8"),
        (lambda: small(Attention(b=0)), r"scores' multiplier reaches \[0, 0\]"),
        (lambda: small(Attention(c=17)), r"scores' shift reaches \[17, 17\], outside \[1, 16\]"),
        (lambda: small(Attention(ob=1 << 15)), r"result's multiplier reaches \[32768, 32768\]"),
        (lambda: small(Attention(qmax=255)), r"result's result reaches \[-128, 255\], outside \[-128, 127\]"),
        (lambda: small(q=(SHAPES["q"][0], torch.int16)), "q is torch.int16, expected"),
        (lambda: small(mask=((1, 1, "queries", "keys"), torch.int8)), "mask is torch.int8, expected torch.bool"),
        (lambda: small(bias=((1, 1, "queries", "keys"), torch.int8)), "bias is torch.int8, expected torch.int32"),
    ],
    ids=lambda value: None if callable(value) else str(value)[:24],
)
def test_the_verifier(program: Any, reason: str | None) -> None:
    if reason is None:
        verify(program())
        return
    with pytest.raises(VerifyError, match=reason):
        verify(program())


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"k": ("batch", 2, "keys", 7)}, "queries of 8 values, keys of 7"),
        ({"v": ("batch", 2, "queries", 4)}, "values"),
        ({"k": ("batch", 1, "keys", 8)}, "q, k and v differ in their leading dimensions"),
        ({"v": (2, "keys", 4)}, "ranks 4, 4 and 3"),
        ({"mask": ("batch", 2, 2, "keys")}, "the mask does not go into the scores' shape"),
        ({"bias": (1, 1, "batch", 2, "queries", "keys")}, "the bias does not go into the scores' shape"),
    ],
)
def test_operands_that_do_not_fit_do_not_propagate(changed: dict[str, Shape], reason: str) -> None:
    kinds = {"mask": torch.bool, "bias": torch.int32}
    with pytest.raises(ProgramError, match=reason):
        small(**{name: (shape, kinds.get(name, torch.int8)) for name, shape in changed.items()})


def test_a_table_of_another_length_does_not_propagate() -> None:
    with pytest.raises(ProgramError, match=r"the table has shape \[255\]"):
        small(table=TABLE[:255])
