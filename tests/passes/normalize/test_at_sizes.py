"""Values at given sizes are those that the program computes there; bits are compared, not numbers."""

from __future__ import annotations

import pytest
import torch
from fxpress_passes.normalize.at_sizes import begins, computed, same_bits, steps_to
from fxpress_passes.normalize.size_values import frontier, size_values
from lengths import inputs, over_lengths
from torch import Tensor


def test_a_value_is_computed_by_the_programs_own_operators() -> None:
    weight = torch.tensor([0.5, 2.0, 3.0, 4.0])

    def body(x: Tensor) -> tuple[Tensor, Tensor]:
        angle = torch.arange(x.shape[1])[:, None] * weight + x.shape[0]
        return x + 1, (angle.cos() * torch.ones_like(x)).reshape(x.shape[0] * x.shape[1], 4)

    program = over_lengths(body, 4)  # type: ignore[arg-type]
    values = size_values(program.graph)
    (node,) = frontier(values)
    steps = steps_to(node, values)
    assert steps[-1] is node
    symbols = {name: symbol for symbol, name in program.symbols().items()}
    for batch, seq in ((1, 1), (2, 9), (3, 4)):
        found = computed(program, steps, {symbols["batch"]: batch, symbols["seq"]: seq})
        assert same_bits(found, program.run(*inputs(program, batch, seq))[1])


def test_only_what_a_value_is_computed_from_is_a_step() -> None:
    program = over_lengths(lambda x: x + torch.arange(x.shape[1])[:, None] + torch.arange(x.shape[0])[:, None, None] * 2, 4)
    values = size_values(program.graph)
    first, second = frontier(values)
    assert [step.name for step in steps_to(first, values)] == ["arange", "unsqueeze"]
    assert not {*steps_to(first, values)} & {*steps_to(second, values)}


@pytest.mark.parametrize(
    ("whole", "part", "wanted"),
    [
        (torch.arange(6).reshape(2, 3), torch.arange(2).reshape(1, 2), True),
        (torch.arange(6).reshape(2, 3), torch.arange(6).reshape(2, 3), True),
        (torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("nan")]), True),
        (torch.tensor([True, False]), torch.tensor([True]), True),
        (torch.tensor(3.0).bfloat16(), torch.tensor(3.0).bfloat16(), True),
        (torch.tensor([1j, 2.0]).to(torch.complex128), torch.tensor([1j]).to(torch.complex128), True),
        (torch.arange(6).reshape(2, 3), torch.arange(4).reshape(2, 2), False),
        (torch.tensor([0.0, 1.0]), torch.tensor([-0.0]), False),
        (torch.arange(3), torch.arange(4), False),
        (torch.arange(3), torch.arange(3).reshape(1, 3), False),
        (torch.arange(3), torch.arange(3, dtype=torch.int32), False),
    ],
    ids=["cut", "whole", "nan", "bool", "number", "complex", "other", "minus zero", "longer", "rank", "type"],
)
def test_beginnings(whole: Tensor, part: Tensor, wanted: bool) -> None:
    assert begins(whole, part) is wanted
