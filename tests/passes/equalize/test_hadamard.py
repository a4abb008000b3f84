"""Hadamard blocks: orthonormal, of the largest size that divides a width, and signed by the seed."""

from __future__ import annotations

import pytest
import torch
from fxpress_ir.analysis.hadamard import is_hadamard
from fxpress_passes.equalize.hadamard import block_size, blocks, hadamard
from hypothesis import given
from hypothesis import strategies as st


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [1, 2, 8, 64, 256])
def test_it_is_orthonormal_and_its_entries_are_alike(size: int) -> None:
    matrix = hadamard(size, _generator())
    assert torch.allclose(matrix @ matrix.T, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.equal((matrix.abs() * size**0.5).round(), torch.ones(size, size, dtype=torch.float64))


def test_signs_come_from_the_seed() -> None:
    assert torch.equal(hadamard(16, _generator(1)), hadamard(16, _generator(1)))
    assert not torch.equal(hadamard(16, _generator(1)), hadamard(16, _generator(2)))


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_a_block_is_the_largest_power_of_two_that_fits(width: int, most: int) -> None:
    size = block_size(width, most)
    assert size & (size - 1) == 0
    assert width % size == 0
    assert size <= most
    assert 2 * size > most or width % (2 * size)
    assert block_size(width) >= size


def test_blocks_stand_along_the_diagonal() -> None:
    part = hadamard(4, _generator())
    assert is_hadamard(part)
    whole = blocks(part, 12)
    assert torch.equal(whole, torch.block_diag(part, part, part))
    assert not is_hadamard(whole)
