"""Programs of comparisons, and, or, not over every integer type, and inputs at what they compare with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from fxpress_ir import Edit, Program
from fxpress_ir.ops import COMPARISONS
from several import several
from support import aten
from torch import Tensor, fx

TYPES = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
RELATIONS: tuple[Any, ...] = tuple(sorted(COMPARISONS, key=str))


def numbers_of(dtype: torch.dtype) -> tuple[int, ...]:
    """The ends of a type, and what stands beside 0."""
    limits = torch.iinfo(dtype)
    return tuple(sorted({limits.min, max(limits.min, -1), 0, 1, limits.max - 1, limits.max}))


def comparing(number: int = 0) -> Program:
    """Every type [batch, seq] in every relation to one of its `numbers_of`."""

    def body(edit: Edit, *xs: fx.Node) -> list[fx.Node]:
        made = []
        for x, dtype in zip(xs, TYPES, strict=True):
            numbers = numbers_of(dtype)
            for place, relation in enumerate(RELATIONS):
                made.append(edit.call(relation, x, numbers[(number + place) % len(numbers)]))
        return made

    return several([(("batch", "seq"), dtype) for dtype in TYPES], body)


def joining() -> Program:
    """Booleans [batch, seq], moved and broadcast against each other and a table cut to the length."""

    def body(edit: Edit, x: fx.Node, y: fx.Node) -> list[fx.Node]:
        length = edit.call(aten.sym_size.int, x, 1)
        table = edit.add_tensor("table", (torch.arange(80).reshape(1, 8, 10) % 3 == 0).unsqueeze(0))
        cut = edit.call(aten.slice.Tensor, edit.call(aten.slice.Tensor, table, 3, 0, length), 2, 0, 1)
        keys, queries = (
            edit.call(aten.unsqueeze.default, edit.call(aten.unsqueeze.default, given, 1), axis) for given, axis in ((x, 2), (y, 3))
        )
        both = edit.call(aten.logical_and.default, keys, queries)
        either = edit.call(aten.logical_or.default, cut, both)
        return [both, edit.call(aten.logical_not.default, either), edit.call(aten.logical_and.default, both, either)]

    return several([(("batch", "seq"), torch.bool)] * 2, body, {"seq": 10})


def compared(batch: int, length: int) -> list[Tensor]:
    """Inputs of `comparing`: its numbers, their neighbours and anything."""
    generator = torch.Generator().manual_seed(batch + length)

    def draw(dtype: torch.dtype) -> Tensor:
        numbers: Sequence[int] = numbers_of(dtype)
        places = torch.randint(0, len(numbers), (batch, length), generator=generator)
        return torch.tensor(numbers, dtype=dtype)[places]

    return [draw(dtype) for dtype in TYPES]


def joined(batch: int, length: int) -> list[Tensor]:
    """Inputs of `joining`."""
    generator = torch.Generator().manual_seed(batch * length)
    return [torch.rand(batch, length, generator=generator) > 0.5 for _ in range(2)]
