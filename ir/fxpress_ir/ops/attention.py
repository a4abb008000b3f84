"""y = rescale(softmax(rescale(q k^T + bias)) v) with the division put off: the exponentials meet v first, their sum divides after.

For each query, over its keys j: ``s_j = clamp(rne((q k_j + bias_j) * b / 2**c), -128, 127)``, -128 where the key is not seen;
``E_j = table[max s - s_j]``, 0 where it is not seen, the table being rn(255 * exp(-s * d)); ``O = sum E_j v_j``, ``S = sum E_j``,
(R, n) the reciprocal of S; ``o = (rs(O, n - 7) * R + 2**14) >> 15`` with rs(x, e) = (x + 2**(e - 1)) >> e for e > 0 and x for
e <= 0: 2**8 * O / S; and ``y = clamp(rne(o * ob / 2**oc), qmin, qmax)``.

What a query of which mask and causal order leave no key gives is the text ``unseen``: ``zero``: O = 0; ``mean``: E_j = table[0] for
every key, the later ones too; ``unmasked``: what it would give without the mask, in causal order if that is asked for.

|o - 2**8 * O / S| <= 3/2 + 2**-7 * |O / S|: the rounding of O counts 1, that of o 1/2, the reciprocal a share of 2**-15.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from .library import Fact, Interval, Intervals, Proof, Tensors, arguments, check, constant, define
from .matmul import counted
from .reciprocal import reciprocal
from .requantize import prove_rescaling, requantize
from .softmax import KEYS_MOST

LEAST_SCORE = -128
"""The score of a key that is not seen, and the least of one that is."""

KEPT_BITS = 7
"""A sum of exponentials is at least 2**7: that of the largest score is. Of the weighted sum as many bits more than v's are kept."""

UNSEEN_ROWS = ("zero", "mean", "unmasked")
"""What a query that sees nothing may give."""

_FRACTION = 8
"""The normalised sum counts 2**-8 of v's step."""


def _rescaled(x: Tensor, b: int, c: int, qmin: int, qmax: int, dtype: torch.dtype) -> Tensor:
    result: Tensor = requantize.overload(x, torch.tensor([b], dtype=torch.int32), c, qmin, qmax, -1, dtype)
    return result


def _attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, table: Tensor, b: int, c: int, ob: int, oc: int,
    qmin: int, qmax: int, causal: bool, dtype: torch.dtype, unseen: str = "zero",
) -> Tensor:  # fmt: skip
    """Products through float64: exact in any order because the verifier bounds every partial sum below 2**31 < 2**53."""
    sums = torch.matmul(q.double(), k.double().transpose(-2, -1)).to(torch.int32)
    scores = _rescaled(sums if bias is None else sums + bias, b, c, LEAST_SCORE, 127, torch.int8).to(torch.int32)
    seen, counted = _seen(mask, causal, scores, unseen)
    if seen is not None:
        scores = torch.where(seen, scores, LEAST_SCORE)
    exponentials = table.to(q.device).long()[(scores.amax(-1, keepdim=True) - scores).long()]
    if counted is not None:
        exponentials = torch.where(counted, exponentials, 0)
    factor, n = reciprocal(exponentials.sum(-1, keepdim=True))
    excess = (n - KEPT_BITS).clamp(min=0)
    weighted = torch.matmul(exponentials.double(), v.double()).long()
    normalised = (((weighted + (1 << excess >> 1)) >> excess) * factor + (1 << 14)) >> 15
    return _rescaled(normalised, ob, oc, qmin, qmax, dtype)


def _seen(mask: Tensor | None, causal: bool, scores: Tensor, unseen: str) -> tuple[Tensor | None, Tensor | None]:
    """True where a key keeps its score, and where it counts; None where all do."""
    earlier = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril() if causal else None
    if mask is None:
        return earlier, earlier
    seen = mask if earlier is None else mask & earlier
    if unseen == "zero":
        return seen, seen
    counted = seen | ~seen.any(-1, keepdim=True)
    if unseen == "mean":
        return seen, counted
    counted = counted if earlier is None else counted & earlier
    return counted, counted


def _fake_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None, table: Tensor, b: int, c: int, ob: int, oc: int,
    qmin: int, qmax: int, causal: bool, dtype: torch.dtype, unseen: str = "zero",
) -> Tensor:  # fmt: skip
    check(unseen in UNSEEN_ROWS, lambda: f"unseen is {unseen!r}, expected one of {', '.join(UNSEEN_ROWS)}")
    check(q.dim() == k.dim() == v.dim() >= 2, lambda: f"ranks {q.dim()}, {k.dim()} and {v.dim()}, expected equal ones from 2 on")
    lead = q.shape[:-2]
    check(lead == k.shape[:-2] == v.shape[:-2], lambda: "q, k and v differ in their leading dimensions")
    check(isinstance(q.shape[-1], int) and q.shape[-1] == k.shape[-1], lambda: f"queries of {q.shape[-1]} values, keys of {k.shape[-1]}")
    check(k.shape[-2] == v.shape[-2], lambda: f"{k.shape[-2]} keys, {v.shape[-2]} values")
    check(tuple(table.shape) == (256,), lambda: f"the table has shape {list(table.shape)}, expected [256]")
    scores = [*lead, q.shape[-2], k.shape[-2]]
    for what, operand in (("mask", mask), ("bias", bias)):
        fits = operand is None or _goes_into(list(operand.shape), scores)
        check(fits, lambda what=what: f"the {what} does not go into the scores' shape {scores}")  # type: ignore[misc]
    check(unseen == "zero" or mask is None or mask.dim() > 0, lambda: "the mask has no dimension")
    return q.new_empty([*lead, q.shape[-2], v.shape[-1]], dtype=dtype)


def _goes_into(shape: list[Any], wanted: list[Any]) -> bool:
    """It broadcasts: its last dimensions have the wanted sizes or a fixed 1."""
    pairs = zip(reversed(shape), reversed(wanted), strict=False)
    return len(shape) <= len(wanted) and all((isinstance(size, int) and size == 1) or size == full for size, full in pairs)


def prove_scores(node: fx.Node, intervals: Intervals) -> Proof:
    """The interval of q k^T + bias; the fact covers every partial sum in every order."""
    named = arguments(node)
    q, k = (intervals[named[operand]].hull() for operand in ("q", "k"))
    bias = Interval.of(0, 0) if named["bias"] is None else intervals[named["bias"]].hull()
    depth = int(named["q"].meta["val"].shape[-1])
    corners = [depth * int(x) * int(y) for x in (q.low, q.high) for y in (k.low, k.high)]
    worst = np.asarray(depth * int(q.magnitude) * int(k.magnitude) + int(bias.magnitude), np.int64)
    interval = Interval.of(min(corners) + int(bias.low), max(corners) + int(bias.high))
    return Proof(interval, (Fact.fits(node.name, "score (any order)", -worst, worst, 32),))


def prove_mean(node: fx.Node, intervals: Intervals, tensors: Tensors) -> Proof:
    """The interval of o, 2**8 times the mean of v under the exponentials, and what its arithmetic needs.

    |rs(O, n - 7)| <= |v| * S / 2**(n - 7) + 1/2 and R <= 2**(16 + n) / S * (1 + 2**-15), so the product is at most
    |v| * (2**23 + 2**8) + 2**15.
    """
    named = arguments(node)
    table, v = constant(named["table"], tensors), intervals[named["v"]].hull()
    keys = counted(node, "keys", named["k"].meta["val"].shape[-2], KEYS_MOST)
    total = min(keys.high, KEYS_MOST) * int(table.max())
    half = 1 << max(total.bit_length() - 2 - KEPT_BITS, 0)
    weighted = np.asarray(total * int(v.magnitude) + half, np.int64)
    ends = [
        end * ((1 << 15 + _FRACTION) + (1 << _FRACTION)) + sign * (1 << 15)
        for sign, end in ((-1, min(int(v.low), 0)), (1, max(int(v.high), 0)))
    ]
    low, high = (np.asarray(end, np.int64) for end in ends)
    facts = (
        keys,
        Fact(node.name, "exponential of 0", int(table[0]), int(table[0]), 1 << KEPT_BITS, 255),
        Fact.fits(node.name, "weighted sum and rounding term (any order)", -weighted, weighted, 32),
        Fact.fits(node.name, "normalised product and rounding term", low, high + (1 << 14), 32),
    )
    return Proof(Interval.of(*(int(end) + (1 << 14) >> 15 for end in ends)), facts)


def _prove_attention(node: fx.Node, intervals: Intervals, tensors: Tensors) -> Proof:
    named = arguments(node)
    scores, mean = prove_scores(node, intervals), prove_mean(node, intervals, tensors)
    rescaled = prove_rescaling(node, scores.interval, np.array([named["b"]]), named["c"], LEAST_SCORE, 127, torch.int8)
    settings = [named[key] for key in ("oc", "qmin", "qmax", "dtype")]
    result = prove_rescaling(node, mean.interval, np.array([named["ob"]]), *settings)
    facts = (*_of(rescaled.facts, "scores'"), *mean.facts, *_of(result.facts, "result's"))
    return Proof(result.interval, (*scores.facts, *facts))


def _of(facts: tuple[Fact, ...], whose: str) -> tuple[Fact, ...]:
    return tuple(replace(fact, what=f"{whose} {fact.what}") for fact in facts)


attention = define(
    "attention(Tensor q, Tensor k, Tensor v, Tensor? mask, Tensor? bias, Tensor table, int b, int c, int ob, int oc, "
    'int qmin, int qmax, bool causal, ScalarType dtype, str unseen="zero") -> Tensor',
    _attention,
    _fake_attention,
    _prove_attention,
)
