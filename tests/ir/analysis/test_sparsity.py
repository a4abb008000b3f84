"""Bytes of bitmask and values, counted by hand."""

from __future__ import annotations

import torch
from fxpress_ir.analysis.sparsity import Sparse, sparse, stored_bytes


def test_half_of_the_elements_take_a_bit_each_and_their_values() -> None:
    weight = torch.tensor([[1.0, 0.0, -0.0, 2.0, 0.0], [0.0, 3.0, 4.0, 0.0, 5.0]])
    found = sparse({"w": weight, "dense": torch.ones(7)})
    assert found == {"w": Sparse(elements=10, zeros=5, dense_bytes=40, sparse_bytes=2 + 5 * 4)}
    assert stored_bytes({"w": weight, "dense": torch.ones(7)}) == 22 + 28


def test_one_zero_among_bytes_is_not_worth_a_bitmask() -> None:
    codes = torch.ones(16, dtype=torch.int8)
    codes[3] = 0
    assert sparse({"w": codes}) == {}
    assert stored_bytes({"w": codes}) == 16


def test_an_empty_tensor_takes_nothing() -> None:
    assert sparse({"w": torch.empty(0, 3)}) == {}
    assert stored_bytes({"w": torch.empty(0, 3)}) == 0
