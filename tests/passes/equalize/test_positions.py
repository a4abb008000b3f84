"""What is computed position by position, which of it is folded together, and first positions on data."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from float_programs import captured
from fxpress_ir import Program
from fxpress_passes.equalize.positions import Firsts, computed_operands, is_by_position, members_of
from torch import Tensor, fx, nn
from torch.nn import functional

_aten = torch.ops.aten


class Parts(nn.Module):
    """`body` over some layers; [batch, 5, 8]."""

    def __init__(self, body: Callable[[Parts, Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.first, self.second, self.out, self.norm = body, nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.LayerNorm(8)
        self.rows, self.channels = nn.Parameter(torch.ones(5, 1)), nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def _program(body: Callable[[Parts, Tensor], Tensor]) -> Program:
    return captured(Parts(body), 2, 5, 8)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (lambda m, x: m.out(m.first(x)), True),
        (lambda m, x: m.out(m.norm(x)), True),
        (lambda m, x: m.out(functional.gelu(x)), True),
        (lambda m, x: m.out(x * m.channels), True),
        (lambda m, x: m.out(x + x.tanh()), True),
        (lambda m, x: m.out(x * m.rows), False),
        (lambda m, x: m.out(x + x.tanh()[:, :1]), False),
        (lambda m, x: m.out(x.softmax(-1)), False),
        (lambda m, x: m.out(functional.layer_norm(x, (5, 8))), False),
        (lambda m, x: m.out(x.flip(1)), False),
    ],
)
def test_position_by_position(body: Callable[[Parts, Tensor], Tensor], expected: bool) -> None:
    program = _program(body)
    (last,) = program.outputs()
    source = last.all_input_nodes[0]
    assert is_by_position(source) == expected
    assert not is_by_position(last), "it leaves the program"


def _named(program: Program) -> dict[str, fx.Node]:
    """The layers by the tensors that they hold, others by their operators."""
    return {
        str(node.args[1].target).partition(".")[0] if node.target is _aten.linear.default else str(node.target).split(".")[1]: node
        for node in program.graph.nodes
        if node.op == "call_function"
    }


def test_members_are_what_is_stretched_and_what_reads_it() -> None:
    """first, silu, a product, second ==> back to where nothing is stretched, and on to the first that no longer is."""
    program = _program(lambda m, x: m.out(m.second(functional.silu(m.first(x)) * m.norm(x).tanh()).flip(1)))
    nodes = _named(program)
    known = set(nodes.values()) - {nodes["flip"], nodes["out"]}
    stretched = {nodes["silu"], nodes["mul"]}
    assert members_of([nodes["mul"]], stretched, known) == {nodes["silu"], nodes["mul"], nodes["second"]}
    assert members_of([nodes["mul"]], {nodes["mul"]}, known) == {nodes["mul"], nodes["second"]}
    assert members_of([nodes["flip"]], stretched, known) == set()
    assert computed_operands(nodes["mul"]) == [nodes["silu"], nodes["tanh"]]


def test_first_positions_are_compared() -> None:
    program = _program(lambda m, x: m.out(torch.cat([m.channels.expand(len(x), 1, -1) * 3, x], 1)))
    cat = next(node for node in program.graph.nodes if node.target is _aten.cat.default)
    seen = Firsts(program, {cat}, None, -1)
    seen.observe((torch.ones(2, 5, 8),))
    assert torch.equal(seen.rows[cat.name], torch.full((1, 1, 8), 3.0))
    assert seen.stretches(cat, 2.9)
    assert not seen.stretches(cat, 3.0)
    assert seen.spread(cat) == 0
    seen.observe((torch.full((2, 5, 8), -4.0),))
    assert not seen.stretches(cat, 1.0)


def test_what_differs_between_sequences_is_seen() -> None:
    program = _program(lambda m, x: m.out(x.tanh()))
    tanh = next(node for node in program.graph.nodes if node.target is _aten.tanh.default)
    seen = Firsts(program, {tanh}, None, -1)
    seen.observe((torch.full((2, 5, 8), 9.0),))
    assert seen.spread(tanh) == pytest.approx(1.0)


class Ids(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(9, 8), nn.Linear(8, 8)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.embedding(ids))


def test_tokens_that_differ_are_named() -> None:
    program = captured(Ids(), 2, 5, dtype=torch.int64)
    (ids,) = program.placeholders()
    seen = Firsts(program, set(), ids, 3)
    batch = torch.randint(0, 9, (4, 5))
    batch[:, 0] = 3
    seen.observe((batch,))
    assert seen.token_differs is None
    batch[2, 0] = 7
    seen.observe((batch,))
    assert seen.token_differs == 7
