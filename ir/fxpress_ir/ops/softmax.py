"""p = E * R / 2**(16 + n) with E = table[max - x] and R / 2**(16 + n) = 1 / sum E: a softmax along the last dimension.

The table holds rn(2**14 * exp(-s * d)) for scores of scale s. With b bits for the result, sh = min(16 + n - b, 31) and
p = (E * R + 2**(sh - 1)) >> sh, saturated, is 2**b * E / sum E: within 1/2 + 2**(b - 15) of it where the shift is not held at 31
and the clamp does not act. Held there (b = 8 and a sum from 2**24 on, of which no E is more than 2**-10) p is 0 or 1: 1 for
the largest E alone, and then only where the sum is a power of two or exceeds one by a share of less than 2**-16.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from .library import Fact, Interval, Intervals, Proof, Tensors, arguments, check, constant, define
from .matmul import counted
from .reciprocal import RECIPROCAL_LIMIT, RECIPROCAL_MOST, reciprocal

EXPONENTIAL_MOST = 1 << 14
"""What the table of a softmax holds for 1."""

KEYS_MOST = 1 << 16
"""The longest row: sums of exponentials stay below 2**31."""

PROBABILITIES = {8: torch.uint8, 15: torch.int16}
"""bits ==> the type of probabilities that count 2**-bits."""


def _softmax(x: Tensor, table: Tensor, bits: int) -> Tensor:
    wide = x.to(torch.int32)
    exponentials = table.to(x.device).long()[(wide.amax(-1, keepdim=True) - wide).long()]
    factor, n = reciprocal(exponentials.sum(-1, keepdim=True))
    shift = (16 + n - bits).clamp(max=31)
    probabilities = (exponentials * factor + (1 << (shift - 1))) >> shift
    return probabilities.clamp(max=torch.iinfo(PROBABILITIES[bits]).max).to(PROBABILITIES[bits])


def _fake_softmax(x: Tensor, table: Tensor, bits: int) -> Tensor:
    check(x.dim() >= 1, lambda: "x has no dimension")
    check(bits in PROBABILITIES, lambda: f"{bits} bits, expected 8 or 15")
    check(tuple(table.shape) == (256,), lambda: f"the table has shape {list(table.shape)}, expected [256]")
    return torch.empty_like(x, dtype=PROBABILITIES[bits])


def _prove_softmax(node: fx.Node, intervals: Intervals, tensors: Tensors) -> Proof:
    """R <= 2**16 and sh <= 31, so that the product and the rounding term reach 2**31 and fit 32 bits without a sign."""
    named = arguments(node)
    table = constant(named["table"], tensors)
    keys = counted(node, "values in a row", named["x"].meta["val"].shape[-1], KEYS_MOST)
    most = int(table.max())
    facts = (
        keys,
        Fact(node.name, "exponential", int(table.min()), most, 0, EXPONENTIAL_MOST),
        Fact(node.name, "exponential of 0", int(table[0]), int(table[0]), 1, EXPONENTIAL_MOST),
        Fact(node.name, "sum of exponentials (any order)", 0, min(keys.high, KEYS_MOST) * most, 0, RECIPROCAL_LIMIT - 1),
        Fact(node.name, "product and rounding term", 0, most * RECIPROCAL_MOST + (1 << 30), 0, (1 << 32) - 1),
    )
    return Proof(Interval.of(0, torch.iinfo(PROBABILITIES[named["bits"]]).max), facts)


softmax = define("softmax(Tensor x, Tensor table, int bits) -> Tensor", _softmax, _fake_softmax, _prove_softmax)
