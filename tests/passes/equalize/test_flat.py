"""Layers over flattened positions, and those that stay as they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from float_programs import captured, operators, sample, untouched
from fxpress_passes.contract import difference
from fxpress_passes.equalize.flat import over_positions
from torch import Tensor, nn


class Flat(nn.Module):
    """`body` of a layer of 8 channels and 12 rows; [batch, 5, 8]."""

    def __init__(self, body: Callable[[Flat, Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.layer = body, nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: m.layer(x.view(-1, 8)).view(len(x), 5, 12),
        lambda m, x: m.layer(x.flatten(0, 1)).reshape(-1, 5, 12),
        lambda m, x: (y := m.layer(x.view(-1, 8))).view(-1, 5, 12) + y.view(-1, 5, 12).tanh(),
    ],
)
def test_before_and_expected(body: Callable[[Flat, Tensor], Tensor]) -> None:
    before = captured(Flat(body), 2, 5, 8)
    with untouched(before):
        after = over_positions(before)
    assert operators(after)[0] == "aten.linear"
    assert not {"aten.view", "aten.reshape", "aten.flatten.using_ints"} & set(operators(after))
    inputs = sample(before, 3)
    assert difference(before.run(*inputs), after.run(*inputs)).relative < 1e-6


@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: m.layer(x),
        lambda m, x: m.layer(x.view(-1, 8)),
        lambda m, x: m.layer(x.view(-1, 8)).view(-1, 12, 5),
        lambda m, x: m.layer(x.flatten(1)[:, :8]).view(-1, 1, 12),
        lambda m, x: (y := m.layer(x.view(-1, 8))).view(-1, 5, 12) + y.mean(),
    ],
)
def test_others_stay(body: Callable[[Flat, Tensor], Tensor]) -> None:
    program = captured(Flat(body), 2, 5, 8)
    assert over_positions(program) is program
