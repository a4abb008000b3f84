"""Which weights are orthonormal Hadamard matrices."""

from __future__ import annotations

import pytest
import torch
from fxpress_ir.analysis.hadamard import BLOCK_LIMIT, is_hadamard
from torch import Tensor

TWO = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5


def _of(size: int) -> Tensor:
    found = torch.ones(1, 1)
    while len(found) < size:
        found = torch.kron(found, TWO)
    return found


@pytest.mark.parametrize("size", [2, 4, 32, BLOCK_LIMIT])
def test_it_is_one_whatever_its_signs(size: int) -> None:
    signs = torch.randint(0, 2, (size,)) * 2 - 1
    assert is_hadamard(_of(size) * signs)
    assert is_hadamard((_of(size) * signs).double().T)


@pytest.mark.parametrize(
    "weight",
    [
        torch.eye(4),
        _of(4) * 2,
        _of(4)[:2],
        _of(4)[None],
        _of(4).abs(),
        torch.ones(1, 1),
        _of(2 * BLOCK_LIMIT),
        torch.linalg.qr(torch.arange(16.0).reshape(4, 4).sin())[0],
        torch.kron(torch.eye(2), TWO),
        torch.full((4, 4), float("nan")),
    ],
)
def test_others_are_none(weight: Tensor) -> None:
    assert not is_hadamard(weight)
