"""Products, quotients, sums and differences with constants as gain and shift; what is none of them is no step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from float_programs import Function, captured
from fxpress_passes import Context, FoldConstants
from fxpress_passes.fuse.affine import chain, step
from torch import Tensor, nn

VECTOR = torch.tensor([1.0, 2.0, 4.0])


class WithConstant(Function):
    def __init__(self, body: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...] = (3,)) -> None:
        super().__init__(lambda x: body(x, self.constant))
        self.constant = nn.Parameter(VECTOR.reshape(shape))


def program(body: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...] = (3,)) -> object:
    return FoldConstants().apply(captured(WithConstant(body, shape), 2, 3, 3), Context())


STEPS: list[tuple[Callable[[Tensor, Tensor], Tensor], object, object, int | None]] = [
    (lambda x, c: x * c, [1, 2, 4], 0, 2),
    (lambda x, c: c * x, [1, 2, 4], 0, 2),
    (lambda x, c: x / c, [1, 0.5, 0.25], 0, 2),
    (lambda x, c: torch.add(x, c, alpha=3), 1, [3, 6, 12], 2),
    (lambda x, c: torch.sub(c, x, alpha=3), -3, [1, 2, 4], 2),
    (lambda x, c: x - 2, 1, -2, None),
    (lambda x, c: 2 - x, -1, 2, None),
    (lambda x, c: -x, -1, 0, None),
    (lambda x, c: x / 4, 0.25, 0, None),
]
"""x and a constant [3] ==> gain, shift, axis."""


def test_steps() -> None:
    found = program(lambda x, c: tuple(body(x, c) for body, *_ in STEPS))
    edit = found.edit()
    for output, (_, gain, shift, axis) in zip(found.outputs(), STEPS, strict=True):
        source, affine = step(edit, edit.here(output))
        assert source.op == "placeholder"
        assert (affine.gain.tolist(), affine.shift.tolist(), affine.axis) == (gain, shift, axis)


def test_what_is_no_step() -> None:
    """A reciprocal, a product of two values, one that is broadcast, another operator, a rounded quotient."""
    found = program(lambda x, c: (c / x, x * x, x[..., :1] * c, x.relu(), torch.div(x, c, rounding_mode="floor")))
    edit = found.edit()
    assert [step(edit, edit.here(output)) for output in found.outputs()] == [None] * 5


def test_a_constant_of_two_dimensions_is_no_step() -> None:
    found = FoldConstants().apply(captured(lambda x: x + torch.eye(3), 2, 3, 3), Context())
    edit = found.edit()
    assert step(edit, edit.here(found.outputs()[0])) is None


def test_a_chain_ends_where_another_dimension_or_reader_begins() -> None:
    found = FoldConstants().apply(captured(WithConstant(lambda x, c: ((x.relu() * c + 1) * 2) * c.reshape(3, 1) - 1), 2, 3, 3), Context())
    edit = found.edit()
    chains = [made for node in edit.graph.nodes if (made := chain(edit, node)) is not None]
    assert [len(made.nodes) for made in chains] == [3, 4, 3, 2, 1]
    first, second = chains[0].affine, chains[3].affine
    assert (first.gain.tolist(), first.shift.tolist(), first.axis) == ([2, 4, 8], 2, 2)
    assert (second.gain.tolist(), second.shift.tolist(), second.axis) == ([1, 2, 4], -1, 1)
    assert not first.agrees(second)
