"""Indices that take every element at its own place become views; whatever moves elements stays."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from float_programs import applied, captured, operators, untouched
from fxpress_passes import Context, DecomposeIndex, FoldConstants
from torch import Tensor

VIEW = "aten.unsqueeze"
Body = Callable[[Tensor], Tensor]


def _rows(x: Tensor) -> Tensor:
    """Of a dynamic dimension, so that they are always computed."""
    return torch.arange(x.shape[0])


BODIES: dict[str, tuple[Body, list[str]]] = {
    "the batch": (lambda x: x[_rows(x)] * 2, []),
    "as vmap spreads a mask": (lambda x: x[_rows(x)[:, None, None, None], torch.arange(6)[None, None, None]] * 2, [VIEW, VIEW]),
    "a dimension in the middle": (lambda x: x[:, torch.arange(6)[:, None]] * 2, [VIEW]),
    "nothing is added": (lambda x: x[_rows(x)[:, None] + 0, (torch.arange(0, 6) + 0)[None]] * 2, []),
    "the beginning of a longer one": (lambda x: x[:, torch.arange(9)[:6]] * 2, []),
    "one element": (lambda x: x[_rows(x)[:, None, None], torch.arange(6)[:, None], torch.arange(1)] * 2, []),
    "a result that is viewed": (lambda x: x[:, :1].expand(-1, 6, -1)[_rows(x)].view(-1, 4), ["aten.contiguous", "aten.view"]),
    "one that lies otherwise": (lambda x: x.transpose(1, 2)[_rows(x)].transpose(1, 2).view(-1, 4), ["aten.view"]),
}


@pytest.mark.parametrize("folded", [False, True], ids=["computed", "constant"])
@pytest.mark.parametrize("name", BODIES)
def test_every_element_at_its_place(name: str, folded: bool) -> None:
    """Positions of static dimensions may be constants already."""
    body, expected = BODIES[name]
    shape = (2, 6, 1) if name == "one element" else (2, 6, 4)
    program = captured(body, *shape)
    program = FoldConstants().apply(program, Context()) if folded else program
    after = operators(applied(DecomposeIndex(), program))
    assert [operator for operator in after if operator in {VIEW, "aten.contiguous", "aten.view", "aten.index.Tensor"}] == expected


MOVED: dict[str, Body] = {
    "backwards": lambda x: x[:, torch.arange(5, -1, -1)],
    "some": lambda x: x[:, torch.arange(5)],
    "from the second on": lambda x: x[:, torch.arange(6)[1:]],
    "every other one": lambda x: x[:, torch.arange(12)[::2]],
    "one further": lambda x: x[:, torch.arange(-1, 5)],
    "turned": lambda x: x[torch.arange(6)[None] * 0 + _rows(x)[:, None] * 0, torch.arange(6)],
    "dimensions change places": lambda x: x[_rows(x), torch.arange(6)[:, None]],
    "one for each": lambda x: x[:, torch.arange(6), torch.arange(6)],
    "a boolean": lambda x: x[:, torch.tensor([True] * 6)],
    "a table of two rows": lambda x: x[:, torch.arange(6).reshape(2, 3)],
    "dimensions apart": lambda x: x[_rows(x), :, torch.arange(2)[:1]],
}


@pytest.mark.parametrize("folded", [False, True], ids=["computed", "constant"])
@pytest.mark.parametrize("name", MOVED)
def test_what_moves_elements_stays(name: str, folded: bool) -> None:
    program = captured(MOVED[name], 2, 6, 6)
    program = FoldConstants().apply(program, Context()) if folded else program
    with untouched(program):
        assert DecomposeIndex().apply(program, Context()) is program
