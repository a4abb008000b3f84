"""Comparisons of every integer type with its extremes, and logic of moved booleans, in every storage; lengths stay symbolic."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fxpress_backends.contract import Target
from fxpress_backends.tvm import TVM
from fxpress_ir import Edit, Program
from logic import compared, comparing, joined, joining
from positions import masks, positions
from several import Attention, several
from support import aten
from torch import Tensor, fx
from tvm_cases import Check


@pytest.mark.parametrize("number", [0, 3])
def test_comparisons(number: int, same_bits: Check) -> None:
    same_bits(comparing(number), *(compared(batch, length) for batch, length in ((1, 1), (3, 17), (2, 40))))


def test_logic(same_bits: Check) -> None:
    same_bits(joining(), *(joined(batch, length) for batch, length in ((1, 1), (3, 4), (2, 10))))


def test_positions(same_bits: Check) -> None:
    same_bits(positions(), *(masks(batch, length) for batch, length in ((1, 1), (4, 17), (3, 64))))


def _masked() -> Program:
    """Attention whose keys an int64 input [batch, seq] hides, later ones besides."""
    heads = ("batch", 2, "seq", 8)

    def body(edit: Edit, q: fx.Node, k: fx.Node, v: fx.Node, given: fx.Node) -> fx.Node:
        mask = edit.call(aten.ne.Scalar, given, 0)
        for dimension in (1, 2):
            mask = edit.call(aten.unsqueeze.default, mask, dimension)
        return Attention(causal=True).call(edit, {"q": q, "k": k, "v": v, "mask": mask})

    return several([*[(heads, torch.int8)] * 3, (("batch", "seq"), torch.int64)], body, {"seq": 40})


def _heads(batch: int, length: int) -> list[Tensor]:
    """The first row sees all, the second nothing, others from some key on."""
    generator = torch.Generator().manual_seed(length)
    operands = [torch.randint(-128, 128, (batch, 2, length, 8), generator=generator).to(torch.int8) for _ in range(3)]
    first = torch.tensor([0, length, length // 2])[:batch, None]
    return [*operands, (torch.arange(length) >= first).long() * -(2**40)]


def test_an_attention_mask(same_bits: Check) -> None:
    same_bits(_masked(), *(_heads(batch, length) for batch, length in ((1, 1), (3, 5), (2, 40))))


def _of_ranks(rank: int) -> Program:
    def body(edit: Edit, x: fx.Node, y: fx.Node) -> fx.Node:
        return edit.call(aten.logical_and.default, x, y)

    return several([(("batch", 4, 3), torch.bool), ((1, 4, 3)[3 - rank :], torch.bool)], body)


@pytest.mark.parametrize(("program", "reason"), [(lambda: _of_ranks(2), "combines shapes"), (lambda: _of_ranks(3), None)])
def test_booleans_of_different_ranks_are_refused(program: Callable[[], Program], reason: str | None, target: Target) -> None:
    found = [refusal.reason for refusal in TVM.legalize(program(), target)]
    assert len(found) == (reason is not None)
    assert all(str(reason) in text for text in found)
