"""Symbolic sizes become numbers; symbols know their examples."""

from __future__ import annotations

import pytest
import torch
from fxpress_ir import Program, capture
from fxpress_ir.analysis.sizes import Example, concrete, concrete_size, is_empty, symbols
from torch import Tensor, nn
from torch.export import Dim


class Joined(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return torch.cat([x, y]), x.flatten(), y


@pytest.fixture(scope="module")
def program() -> Program:
    shapes = ({0: Dim("rows", max=100)}, {0: Dim("more")})
    return capture(Joined(), (torch.zeros(4, 3), torch.zeros(5, 3)), dynamic_shapes=shapes)


def test_expressions_are_evaluated(program: Program) -> None:
    values = {symbol: {"rows": 7, "more": 11}[name] for symbol, name in program.symbols().items()}
    joint, flat, same = ([concrete_size(size, values) for size in node.meta["val"].shape] for node in program.outputs())
    assert (joint, flat, same) == ([18, 3], [21], [11, 3])
    assert all(type(size) is int for size in (*joint, *flat, *same))


def test_what_holds_no_symbol_is_itself() -> None:
    assert concrete_size(5, {}) == 5
    assert concrete(None, {}) is None
    assert concrete([1, "x"], {}) == [1, "x"]


def test_symbols_are_listed_with_example_and_bound(program: Program) -> None:
    named = program.symbols()
    found = symbols([node.meta["val"] for node in program.outputs()])
    assert {named[symbol]: example for symbol, example in found.items()} == {"rows": Example(4, 100), "more": Example(5, None)}
    assert symbols([torch.zeros(3), 7, None]) == {}


def test_a_symbol_without_a_value_is_an_error(program: Program) -> None:
    with pytest.raises(KeyError):
        concrete_size(program.outputs()[1].meta["val"].shape[0], {})


def test_what_has_no_elements_at_any_size_is_empty(program: Program) -> None:
    joint = program.outputs()[0].meta["val"]
    assert is_empty(torch.zeros(0))
    assert is_empty(joint[:, 3:])
    assert not any(map(is_empty, (joint, joint[1:], torch.zeros(()), 0, None)))
