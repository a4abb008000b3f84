"""What sizes decide, what they count along, and where it ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from fxpress_ir import Program
from fxpress_passes.normalize.size_values import frontier, is_size, size_values
from lengths import over_lengths
from torch import Tensor


def described(program: Program) -> dict[str, tuple[set[str], set[str]]]:
    """For each value that sizes decide, the dimensions that it depends on and those that it counts along."""
    names = program.symbols()
    found = size_values(program.graph)
    return {node.name: ({names[s] for s in value.depends}, {names[s] for s in value.counts}) for node, value in found.items()}


@pytest.mark.parametrize(
    ("body", "depends", "counts"),
    [
        (lambda x: torch.arange(x.shape[1]), {"seq"}, {"seq"}),
        (lambda x: torch.full((x.shape[0], x.shape[1]), 2.0), {"batch", "seq"}, set()),
        (lambda x: torch.full((2,), x.shape[0]), {"batch"}, {"batch"}),
        (lambda x: torch.arange(x.shape[1])[None].expand(x.shape[0], -1), {"batch", "seq"}, {"seq"}),
        (lambda x: torch.ones_like(x), {"batch", "seq"}, set()),
        (lambda x: x.new_zeros(x.shape[1]), {"batch", "seq"}, set()),
        (lambda x: torch.ones(x.shape[0], x.shape[1]).cumsum(1), {"batch", "seq"}, {"seq"}),
        (lambda x: torch.ones(x.shape[0], x.shape[1]).sum(0), {"batch", "seq"}, {"batch"}),
        (lambda x: torch.ones(x.shape[0], x.shape[1]).sum(), {"batch", "seq"}, {"batch", "seq"}),
        (lambda x: torch.ones(x.shape[0], x.shape[1], 4).tril(7), {"batch", "seq"}, {"seq"}),
        (lambda x: torch.ones(x.shape[0], 4).softmax(-1), {"batch"}, {"batch"}),
        (lambda x: torch.ones(x.shape[0], 4) * 2 + 1, {"batch"}, set()),
        (lambda x: torch.arange(9)[: x.shape[1]], {"seq"}, {"seq"}),
        (lambda x: torch.ones(9)[9 - x.shape[1] :], {"seq"}, {"seq"}),
        (lambda x: torch.ones(x.shape[0], 3)[: x.shape[0]], {"batch"}, set()),
        (lambda x: torch.ones(x.shape[0], 3).repeat(2, 1), {"batch"}, set()),
    ],
)
def test_one_value(body: Callable[[Tensor], Tensor], depends: set[str], counts: set[str]) -> None:
    found = described(over_lengths(lambda x: (x + 1, body(x)), 4))  # type: ignore[arg-type, return-value]
    assert [*found.values()][-1] == (depends, counts)


def test_an_index_along_a_dimension_that_repeats_decides_nothing() -> None:
    def body(x: Tensor) -> Tensor:
        rows = torch.arange(x.shape[1])[None].expand(x.shape[0], -1)
        return x[..., 0] + rows[torch.arange(x.shape[0])[:, None], torch.arange(x.shape[1])]

    found = described(over_lengths(body, 4))
    assert found["index"] == ({"batch", "seq"}, {"seq"})
    assert found["arange_1"] == ({"batch"}, {"batch"})


def test_an_index_into_what_differs_decides() -> None:
    def body(x: Tensor) -> Tensor:
        rows = torch.arange(x.shape[0])[:, None].expand(-1, x.shape[1])
        return x[..., 0] + rows[torch.arange(x.shape[0])[:, None], torch.arange(x.shape[1])]

    assert described(over_lengths(body, 4))["index"] == ({"batch", "seq"}, {"batch"})


def test_elements_of_inputs_random_numbers_and_unwritten_memory_end_it() -> None:
    def body(x: Tensor) -> Tensor:
        count = torch.arange(x.shape[1])[:, None]
        return x * count + torch.rand(x.shape[1], 1) * count + torch.empty(x.shape[1], 1) * count

    assert {*described(over_lengths(body, 4))} == {"arange", "unsqueeze"}


def test_the_frontier_is_what_others_read() -> None:
    def body(x: Tensor) -> tuple[Tensor, ...]:
        count = torch.arange(x.shape[1])
        angle = count[:, None] * 0.5
        return x * angle.cos(), x.shape[1] + x, count

    program = over_lengths(body, 4)  # type: ignore[arg-type]
    assert [node.name for node in frontier(size_values(program.graph))] == ["arange", "cos"]


TABLE = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "body",
    [
        lambda x: x + TABLE[: x.shape[1]],
        lambda x: x + TABLE[: x.shape[1]].unsqueeze(0).expand(x.shape[0], -1, -1),
        lambda x: x + TABLE[:1].cos(),
    ],
    ids=["cut", "expanded", "of fixed size"],
)
def test_moved_constants_and_values_of_fixed_size_are_no_frontier(body: Callable[[Tensor], Tensor]) -> None:
    values = size_values(over_lengths(body, 4).graph)
    assert values
    assert frontier(values) == []


def test_sizes_are_no_values() -> None:
    program = over_lengths(lambda x: x.reshape(x.shape[0] * 2, -1), 4)
    sizes = [node for node in program.graph.nodes if is_size(node)]
    assert sizes
    assert not size_values(program.graph).keys() & {*sizes}
