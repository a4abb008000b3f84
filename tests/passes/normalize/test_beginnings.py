"""An operator that is said to keep beginnings keeps them: at every size, on everything that sizes decide in these programs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from fxpress_ir import Program
from fxpress_passes.normalize.at_sizes import begins, computed, steps_to
from fxpress_passes.normalize.beginnings import keeps_beginnings
from fxpress_passes.normalize.size_values import size_values
from lengths import additive, backwards, decoder, floats, over_lengths
from torch import Tensor

MOST = 6


BODIES = (decoder, additive, backwards, floats)


def values(program: Program) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """For each value what it is at the largest sizes, and at all."""
    found = size_values(program.graph)
    symbols = {name: symbol for symbol, name in program.symbols().items()}
    points = [{symbols["batch"]: batch, symbols["seq"]: seq} for batch, seq in product((3, 2, 1), range(MOST, 0, -1))]
    at = {node.name: [computed(program, steps_to(node, found), point) for point in points] for node in found}
    return {name: [(tensors[0], tensor) for tensor in tensors] for name, tensors in at.items()}


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_the_result_begins_alike_where_the_operands_do(body: Callable[[Tensor], Tensor]) -> None:
    program = over_lengths(body, 4, most=MOST)
    at = values(program)
    alike = {name: all(begins(*pair) for pair in pairs) for name, pairs in at.items()}
    nodes = {node.name: node for node in program.graph.nodes}
    kept = [name for name in at if keeps_beginnings(nodes[name])]
    for name in kept:
        if all(alike.get(used.name, True) for used in nodes[name].all_input_nodes):
            assert alike[name], name


def test_the_decoders_mask_is_proved_by_its_operators_alone() -> None:
    program = over_lengths(decoder, 4, most=MOST)
    assert [node.name for node in size_values(program.graph) if not keeps_beginnings(node)] == []


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (lambda x: torch.arange(x.shape[1]), True),
        (lambda x: torch.arange(2, x.shape[1] + 2, 3), False),
        (lambda x: torch.arange(x.shape[1], 2 * x.shape[1]), False),
        (lambda x: torch.arange(x.shape[1], dtype=torch.float32), False),
        (lambda x: torch.full((x.shape[1],), 3), True),
        (lambda x: torch.full((3,), x.shape[1]), False),
        (lambda x: torch.arange(x.shape[1]) + x.shape[1], False),
        (lambda x: torch.arange(x.shape[1]) * 2 + 1, True),
        (lambda x: torch.ones(x.shape[1]) * 2 + 1, True),
        (lambda x: torch.add(torch.ones(x.shape[1]), torch.ones(x.shape[1]), alpha=3), False),
        (lambda x: torch.ones(x.shape[1]).cos(), False),
        (lambda x: torch.ones(x.shape[1]).cos() > 0, True),
        (lambda x: torch.ones(x.shape[1]).cumsum(0), False),
        (lambda x: torch.arange(x.shape[1]).cumsum(0), True),
        (lambda x: torch.ones(x.shape[1], 2)[1:], False),
        (lambda x: torch.ones(x.shape[1], 2)[:, 1:], True),
        (lambda x: torch.ones(x.shape[1], 2)[-1:], False),
        (lambda x: torch.ones(x.shape[1], 2).flatten(), False),
        (lambda x: torch.ones(x.shape[1], 2).tril(-1), True),
        (lambda x: torch.cat([torch.ones(x.shape[1], 2), torch.zeros(x.shape[1], 1)], 1), True),
        (lambda x: torch.cat([torch.ones(x.shape[1], 2), torch.zeros(1, 2)], 0), False),
        (lambda x: torch.arange(9.0)[torch.arange(x.shape[1])], True),
        (lambda x: torch.arange(9.0)[torch.arange(x.shape[1]) - 1], False),
        (lambda x: torch.arange(9.0)[torch.add(torch.arange(x.shape[1]), 1)], True),
        (lambda x: torch.arange(9.0)[torch.add(torch.arange(x.shape[1]), 1, alpha=-1)], False),
        (lambda x: torch.arange(x.shape[1])[torch.arange(x.shape[1]) - x.shape[1]], False),
        (lambda x: torch.full((x.shape[1],), 1e30).long(), False),
        (lambda x: torch.arange(x.shape[1]).double(), True),
        (lambda x: torch.arange(x.shape[1]).flip(0), False),
    ],
)
def test_one_operator(body: Callable[[Tensor], Tensor], kept: bool) -> None:
    program = over_lengths(lambda x: (x + 1, body(x)), 4)  # type: ignore[arg-type, return-value]
    assert keeps_beginnings([*size_values(program.graph)][-1]) is kept
