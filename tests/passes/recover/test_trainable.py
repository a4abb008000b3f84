"""What is trained merges into a tensor with the same zeros."""

from __future__ import annotations

import torch
from fxpress_passes.recover.trainable import Dense, MaskLora
from torch import Tensor


def _sparse() -> Tensor:
    return torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0)) * (torch.rand(6, 4, 3) > 0.5)


def _moved(item: Dense | MaskLora) -> None:
    with torch.no_grad():
        for leaf in item.leaves.values():
            leaf += torch.randn(leaf.shape)


def test_zeros_stay_and_no_others_come() -> None:
    weight = _sparse()
    for item in (Dense(weight, weight != 0), MaskLora(weight, 2, 0.5, torch.Generator().manual_seed(0))):
        assert torch.equal(item.merged(), weight)
        _moved(item)
        merged = item.merged()
        assert torch.equal(merged != 0, weight != 0)
        assert not torch.equal(merged, weight)
        torch.testing.assert_close(item.value().detach(), merged)
        assert not bool(torch.signbit(merged[weight == 0]).any())


def test_a_weight_that_training_brings_to_zero_keeps_its_old_value() -> None:
    weight = torch.tensor([[1.0, 0.0, 2.0]])
    item = Dense(weight, weight != 0)
    with torch.no_grad():
        item.leaves["value"][0, 0] = 0
    assert item.merged().tolist() == [[1.0, 0.0, 2.0]]


def test_factors_merged_without_the_mask_destroy_the_zeros() -> None:
    """What the mask in MaskLoRA is for."""
    weight = _sparse()
    item = MaskLora(weight, 2, 1.0, torch.Generator().manual_seed(0))
    _moved(item)
    naive = weight + (item.leaves["b"] @ item.leaves["a"]).reshape(weight.shape).detach()
    assert int((naive == 0).sum()) == 0
    assert int((item.merged() == 0).sum()) == int((weight == 0).sum()) > 20


def test_a_bias_at_zero_can_move() -> None:
    item = Dense(torch.zeros(3))
    _moved(item)
    assert int((item.merged() != 0).sum()) == 3
