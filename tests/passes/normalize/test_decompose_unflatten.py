"""A dimension split in two is a view; the others stay, symbolic ones too."""

from __future__ import annotations

import pytest
import torch
from float_programs import Function, applied, captured, operators
from fxpress_ir import capture
from fxpress_passes import Context
from fxpress_passes.normalize.decompose_unflatten import DecomposeUnflatten
from torch import nn


@pytest.mark.parametrize(("dim", "sizes"), [(-1, (4, -1)), (2, (3, 4)), (1, (-1, 2)), (1, (6, 1))])
def test_before_and_expected(dim: int, sizes: tuple[int, int]) -> None:
    after = applied(DecomposeUnflatten(), captured(lambda x: x.transpose(1, 2).unflatten(dim, sizes), 2, 12, 6 if dim == 1 else 5))
    assert "aten.unflatten.int" not in operators(after)


def test_two_symbolic_dimensions() -> None:
    dynamic = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("seq")},)
    before = capture(Function(lambda x: x.unflatten(-1, (2, 4))), (torch.zeros(2, 5, 8),), dynamic_shapes=dynamic)
    after = DecomposeUnflatten().apply(before, Context())
    x = torch.randn(3, 7, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(after.run(x)[0], x.reshape(3, 7, 2, 4))


def test_nothing_to_do() -> None:
    program = captured(nn.Flatten(), 2, 3, 4)
    assert DecomposeUnflatten().apply(program, Context()) is program
