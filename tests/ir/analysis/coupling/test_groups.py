"""Names, numbers, roles and the printed table of groups."""

from __future__ import annotations

import pytest
import torch
from coupled import captured
from fxpress_ir import capture
from fxpress_ir.analysis.coupling import Site, coupled_groups
from fxpress_ir.errors import ProgramError
from support import residual_net
from torch import Tensor, nn


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1, groups=2)
        self.token, self.head = nn.LayerNorm(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.head(self.token(self.b(self.norm(self.a(x))).mean((2, 3))))
        return made


def test_a_group_says_what_it_is() -> None:
    groups = coupled_groups(captured(Small(), torch.randn(2, 3, 5, 5)))
    group = groups["a"]
    assert (group.size, group.producers, group.consumers) == (2, ("conv2d", "conv2d_1"), ("conv2d_1", "linear"))
    assert Site("a.weight", 0, 2) in group.sites
    assert group.prunable
    assert not group.exact
    assert groups.indices("a", 1)["head.weight", 1] == (2, 3)


def test_groups_print_as_a_table() -> None:
    expected = """\
group  atoms  exact  tensors                  removal
a      2      no     a.weight[0] x2, 10 more  its entries are counted by layer_norm at layer_norm
head   2             head.weight[0], 1 more   output 0 carries it"""
    assert str(coupled_groups(captured(Small(), torch.randn(2, 3, 5, 5)))) == expected


def test_what_there_is_not_is_an_error() -> None:
    groups = coupled_groups(captured(Small(), torch.randn(2, 3, 5, 5)))
    with pytest.raises(ProgramError, match="there is no group 'b'; str"):
        groups.group("b")
    assert "b" not in groups
    with pytest.raises(ProgramError, match="group 'a': has no atom 2; it has 2, counted from 0"):
        groups.indices("a", 2)


def test_integers_are_refused() -> None:
    with pytest.raises(ProgramError, match="read off a float program, and this one is integer; prune before quantizing"):
        coupled_groups(residual_net())


def test_the_program_is_left_alone() -> None:
    program = capture(Small().eval(), (torch.randn(2, 3, 5, 5),))
    before = str(program)
    coupled_groups(program)
    assert str(program) == before
