"""Zeros stand where the removed atoms were; variances and divisors stay, shapes and sizes too."""

from __future__ import annotations

import torch
from coupled import captured
from fxpress_ir.slicing import mask_atoms
from torch import Tensor, nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.head = nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3), nn.Conv1d(3, 2, 1)
        self.divisor, self.factor = nn.Parameter(torch.zeros(3, 1)), nn.Parameter(torch.zeros(3, 1))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.head(self.norm(self.a(x)) / self.divisor * self.factor)
        return made


def test_zeros_stand_where_atoms_were() -> None:
    program = captured(Net(), torch.randn(2, 2, 4))
    masked = mask_atoms(program, {"a": (0, 2)})
    zeroed = {
        name: sorted({(dim, int(entry)) for dim in range(tensor.dim()) for entry in _empty(tensor, dim)})
        for name, tensor in masked.tensors.items()
        if tensor is not program.tensors[name]
    }
    rows = ("a.weight", "a.bias", "norm.weight", "norm.bias", "norm.running_mean", "factor")
    assert zeroed == {**{key: [(0, 1)] for key in rows}, "head.weight": [(1, 1)]}
    assert {name: tensor.shape for name, tensor in masked.tensors.items()} == {name: t.shape for name, t in program.tensors.items()}
    assert str(masked) == str(program)


def _empty(tensor: Tensor, dim: int) -> list[int]:
    """The entries along `dim` where all is 0."""
    return [entry for entry in range(tensor.shape[dim]) if not tensor.select(dim, entry).any()]


def test_the_program_is_left_alone() -> None:
    program = captured(Net(), torch.randn(2, 2, 4))
    before = program.hash
    mask_atoms(program, {"a": (0,)})
    assert program.hash == before
    assert mask_atoms(program, {}).hash == before
