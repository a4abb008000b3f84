"""W + B A + (C D) * P begins at W, is what it says, and both weights stay as they are."""

from __future__ import annotations

import pytest
import torch
from fxpress_passes.fuse.injected import Free, Injected
from torch import Tensor


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight, other = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    return weight, other


@pytest.mark.parametrize("shape", [(6, 4), (6, 2, 3, 3)])
def test_it_begins_at_the_weight(shape: tuple[int, ...]) -> None:
    weight, other = pair(*shape)
    item = Injected(weight, other, 2, 3, torch.Generator().manual_seed(0))
    assert torch.equal(item.value(), weight)
    assert [tuple(leaf.shape) for leaf in item.leaves] == [(6, 2), (2, weight[0].numel()), (6, 3), (3, weight[0].numel())]
    item.value().square().sum().backward()
    assert all(leaf.grad is not None for leaf in item.leaves)


def test_it_is_the_sum_of_both_parts() -> None:
    weight, other = pair(6, 4)
    kept = weight.clone(), other.clone()
    item = Injected(weight, other, 2, 3, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for leaf in item.leaves:
            leaf.normal_(generator=torch.Generator().manual_seed(1))
    c, d, b, a = item.leaves
    torch.testing.assert_close(item.value(), weight + b @ a + (c @ d) * other, rtol=0, atol=1e-6)
    assert torch.equal(weight, kept[0])
    assert torch.equal(other, kept[1])


def test_either_part_may_be_left_out() -> None:
    weight, other = pair(6, 4)
    assert len(Injected(weight, other, 0, 3, torch.Generator()).leaves) == len(Injected(weight, other, 3, 0, torch.Generator()).leaves) == 2
    bias = Free(weight[0])
    assert bias.value() is bias.leaves[0]
    assert torch.equal(bias.value(), weight[0])
