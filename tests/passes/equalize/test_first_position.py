"""Values whose first position depends on the first token alone: against what moves when all other tokens change."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from float_programs import captured
from fxpress_ir import Program, capture
from fxpress_passes.equalize.first_position import first_only, known_first, least_sizes
from fxpress_passes.pipeline import Pipeline
from stretched import LONGEST, ClassToken, FirstToken, sequences
from torch import Tensor, fx, nn
from torch.export import Dim

ADD, MEAN = torch.ops.aten.add.Tensor, torch.ops.aten.mean.dim


@cache
def _program(causal: bool) -> Program:
    shapes = {"ids": {0: Dim("batch"), 1: Dim("seq", min=2, max=LONGEST)}}
    program = capture(FirstToken(causal).eval(), sequences(2, 12, 0), dynamic_shapes=shapes)
    return Pipeline.parse("fold-constants, decompose-unflatten, decompose-attention").run(program).program


class Kept(fx.Interpreter):
    """Every tensor of a run."""

    def __init__(self, program: Program) -> None:
        super().__init__(program.module)
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.values[n.name] = value.detach()
        return value


def _values(program: Program, *inputs: Tensor) -> dict[str, Tensor]:
    kept = Kept(program)
    with torch.no_grad():
        kept.run(*inputs)
    return kept.values


@pytest.mark.parametrize("causal", [True, False])
def test_what_is_marked_does_not_move_with_the_other_tokens(causal: bool) -> None:
    program = _program(causal)
    symbols = {name: symbol for symbol, name in program.symbols().items()}
    found = first_only(program, program.placeholders()[0], {symbols["batch"]: 2, symbols["seq"]: 7})
    one, other = (_values(program, *sequences(2, 7, seed)) for seed in (1, 2))
    for node, first in found.items():
        same = torch.isclose(one[node.name].double(), other[node.name].double(), atol=1e-5)
        assert first.shape == same.shape
        assert bool(same[first].all()), node.name


def test_a_causal_model_keeps_the_first_position_to_the_end() -> None:
    program = _program(True)
    known = known_first(program, program.placeholders()[0])
    assert program.outputs()[0] in known
    assert sum(node.target is ADD and node in known for node in program.graph.nodes) == 4


def test_another_keeps_it_up_to_its_attention() -> None:
    program = _program(False)
    known = known_first(program, program.placeholders()[0])
    assert program.outputs()[0] not in known
    assert not any(node.target is ADD for node in known)
    assert sum(node.target is torch.ops.aten.linear.default for node in known) == 3


def test_without_ids_only_constants_are_known() -> None:
    assert known_first(_program(True), None) == []
    program = captured(ClassToken(), 2, 16)
    known = known_first(program, None)
    assert {torch.ops.aten.cat.default, torch.ops.aten.gelu.default} <= {node.target for node in known}
    assert not any(node.target is MEAN for node in known)


class Mixed(nn.Module):
    """The first position sees a later one: by a roll, a flip of what is added, a mean over positions."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.embedding, self.layer = how, nn.Embedding(8, 4), nn.Linear(4, 4)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        if self.how == "roll":
            return self.layer(torch.cat([x[:, 1:], x[:, :1]], 1))
        if self.how == "flip":
            return self.layer(x + x.flip(1))
        return self.layer(x - x.mean(1, keepdim=True))


@pytest.mark.parametrize("how", ["roll", "flip", "mean"])
def test_what_sees_later_positions_is_not_known(how: str) -> None:
    program = capture(Mixed(how).eval(), (torch.zeros(2, 5, dtype=torch.int64),), dynamic_shapes={"ids": {0: Dim("batch")}})
    assert program.outputs()[0] not in known_first(program, program.placeholders()[0])


def test_least_sizes_are_the_signatures() -> None:
    program = _program(True)
    named = {program.symbols()[symbol]: size for symbol, size in least_sizes(program).items()}
    assert named["seq"] == 2
