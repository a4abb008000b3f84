"""The reciprocal square root of fxp::normalize, held to exact integers and, in its error, to every leading bit pattern."""

from __future__ import annotations

import torch
from fxpress_ir.ops.rsqrt import RSQRT_LIMIT, RSQRT_TABLE, rsqrt
from torch import Tensor


def test_the_table_is_the_rounded_reciprocal_root_in_the_middle_of_each_step() -> None:
    """t - 1/2 < 2**31 / sqrt(k * 2**22) < t + 1/2 for k = 2 * i + 257, squared."""
    assert len(RSQRT_TABLE) == 384
    for i, t in enumerate(RSQRT_TABLE):
        k = 2 * i + 257
        assert (2 * t - 1) ** 2 * k < 1 << 42 < (2 * t + 1) ** 2 * k


def root_of(leading: Tensor) -> Tensor:
    """R for m = leading * 2**8: it does not see the last eight bits of m."""
    root, h = rsqrt(leading << 8)
    assert h.unique().tolist() == [15]
    return root


def test_every_argument_between_two_powers_of_four_is_within_its_bound() -> None:
    """R falls as m grows within a step of the table, so the ends of the runs where R is constant decide; bisection finds them."""
    first = torch.arange(128, 512) << 15
    least, most = root_of(first + 2**15 - 1), root_of(first)
    assert (int(least.min()), int(most.max())) == (1 << 15, 1 << 16)
    step = first.repeat_interleave(most - least + 1)
    goal = torch.cat([torch.arange(low, high + 1) for low, high in zip(least.tolist(), most.tolist(), strict=True)])
    low, high = step, step + 2**15 - 1
    while bool((low < high).any()):
        middle = (low + high) >> 1
        reached = root_of(middle) <= goal
        low, high = torch.where(reached, low, middle + 1), torch.where(reached, middle, high)
    assert torch.equal(root_of(low), goal)
    starts, ends = low, torch.cat([torch.maximum(low - 1, step), first + 2**15 - 1])
    below = float((root_of(starts) * (starts.double() * 256).sqrt()).min()) / 2**31 - 1
    above = float((root_of(ends) * (ends.double() * 256 + 255).sqrt()).max()) / 2**31 - 1
    assert -1.56e-5 < below < -1.55e-5
    assert 1.52e-5 < above < 1.56e-5


def test_other_arguments_have_the_root_of_their_leading_bits() -> None:
    values = [*range(1, 5000), *(2**k + d for k in range(13, 62) for d in (-1, 0, 1)), RSQRT_LIMIT - 1]
    root, h = rsqrt(torch.tensor(values))
    assert h.tolist() == [(v.bit_length() - 1) // 2 for v in values]
    assert torch.equal(root, rsqrt(torch.tensor([(v << 30) >> 2 * ((v.bit_length() - 1) // 2) for v in values]))[0])


def test_powers_of_four_are_exact() -> None:
    root, h = rsqrt(torch.tensor([4**k for k in range(31)]))
    assert h.tolist() == list(range(31))
    assert set(root.tolist()) == {1 << 16}
