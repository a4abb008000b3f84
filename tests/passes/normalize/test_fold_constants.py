"""f(constants) ==> constant, unless it is random, grows too much or depends on a symbolic size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from float_programs import applied, captured, operators, refusals, sample, untouched
from fxpress_ir import Edit, text
from fxpress_passes import Context, FoldConstants
from support import built
from torch import Tensor, fx, nn

_aten = torch.ops.aten


class Scaled(nn.Module):
    """x @ (weight * gain).T + (2 arange + 1), which also returns the gain as it is."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(3, 4, generator=generator))
        self.gain = nn.Parameter(torch.randn(3, 1, generator=generator))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weight = self.weight * self.gain
        return nn.functional.linear(x, weight, torch.arange(3) * 2.0 + 1), x.narrow(1, 0, 3) * self.gain.squeeze(1)


EXPECTED = """\
float program(x: float32[batch, 4])
  %folded.mul : f32[3, 4]
  %folded.add : f32[3]
  %folded.squeeze : f32[3]
  linear = aten.linear(x, %folded.mul, %folded.add) : f32[batch, 3]
  narrow = aten.narrow(x, 1, 0, 3) : f32[batch, 3]
  mul_2 = aten.mul.Tensor(narrow, %folded.squeeze) : f32[batch, 3]
  return linear, mul_2"""


def test_before_and_expected() -> None:
    model = Scaled()
    before = captured(model, 1, 4)
    after = applied(FoldConstants(), before)
    assert text(after) == EXPECTED
    assert torch.equal(after.tensors["folded.mul"], model.weight * model.gain)
    assert torch.equal(after.tensors["folded.add"], torch.tensor([1.0, 3.0, 5.0]))
    assert not any(tensor.requires_grad for tensor in after.tensors.values())
    assert all(tensor.is_contiguous() for tensor in after.tensors.values())
    assert FoldConstants().apply(after, Context()) is after


def test_a_constant_with_two_kinds_of_readers_is_computed_once_and_its_source_stays_where_it_is_read() -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        w = edit.add_tensor("w", torch.tensor([1.5, -2.0]))
        doubled = edit.call(_aten.mul.Tensor, w, 2)
        tripled = edit.call(_aten.add.Tensor, doubled, w)
        return edit.call(_aten.add.Tensor, edit.call(_aten.mul.Tensor, x, doubled), edit.call(_aten.mul.Tensor, w, tripled))

    after = applied(FoldConstants(), built((1, 2), body, stage="float"))
    assert sorted(after.tensors) == ["folded.mul_tensor", "folded.mul_tensor_2"]
    assert operators(after) == ["aten.mul.Tensor", "aten.add.Tensor"]
    assert torch.equal(after.tensors["folded.mul_tensor_2"], torch.tensor([6.75, 12.0]))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda edit: edit.call(_aten.arange.default, 4), torch.arange(4)),
        (lambda edit: edit.call(_aten.full.default, [2, 2], 7), torch.full((2, 2), 7)),
        (lambda edit: edit.call(_aten.t.default, edit.add_tensor("w", torch.arange(6.0).reshape(2, 3))), torch.arange(6.0).reshape(2, 3).T),
        (lambda edit: edit.call(_aten.gt.Scalar, edit.add_tensor("w", torch.arange(3.0)), 1), torch.tensor([False, False, True])),
        (lambda edit: edit.call(_aten.neg.default, edit.add_tensor("w", torch.zeros(()))), torch.tensor(-0.0)),
    ],
    ids=["arange", "full", "transposed", "bool", "minus zero"],
)
def test_the_type_shape_and_bits_of_a_constant_stay(make: Callable[[Edit], fx.Node], expected: Tensor) -> None:
    program = built((1, 2), lambda edit, x: make(edit), stage="float")
    after = applied(FoldConstants(), program)
    (result,) = after.tensors.values()
    assert operators(after) == []
    assert result.dtype == expected.dtype
    assert torch.equal(result, expected)
    assert torch.equal(result.signbit(), expected.signbit())


@pytest.mark.parametrize(
    "make",
    [
        lambda edit: edit.call(_aten.rand.default, [2]),
        lambda edit: edit.call(_aten.dropout.default, edit.add_tensor("w", torch.ones(2)), 0.5, True),
        lambda edit: edit.call(_aten.bernoulli.default, edit.add_tensor("w", torch.full((2,), 0.5))),
    ],
    ids=["rand", "dropout", "bernoulli"],
)
def test_random_numbers_are_never_folded(make: Callable[[Edit], fx.Node]) -> None:
    program = built((1, 2), lambda edit, x: edit.call(_aten.add.Tensor, x, make(edit)), stage="float")
    assert FoldConstants().apply(program, Context()) is program


@pytest.mark.parametrize(
    "body",
    [
        lambda x: x + torch.arange(x.shape[0])[:, None],
        lambda x: x + torch.ones(x.shape[0], 3),
        lambda x: x.sum() * torch.full((3,), x.shape[0]),
    ],
    ids=["arange", "ones", "value"],
)
def test_what_depends_on_a_symbolic_size_is_never_folded(body: Callable[[Tensor], Tensor]) -> None:
    program = captured(body, 1, 3)
    after = FoldConstants().apply(program, Context())
    for batch in (1, 3, 5):
        inputs = sample(program, batch)
        assert torch.equal(after.run(*inputs)[0], body(*inputs))
    assert "aten.sym_size.int" in operators(after)


def test_what_reads_an_input_stays() -> None:
    program = captured(lambda x: (x * 2 + 1).relu(), 1, 3)
    with untouched(program):
        assert FoldConstants().apply(program, Context()) is program


def _expanded(edit: Edit, x: fx.Node) -> fx.Node:
    """x + expand(w, [100, 2]).sum(0), where expanding w adds 792 bytes."""
    w = edit.add_tensor("w", torch.tensor([[0.5, 3.0]]))
    return edit.call(_aten.add.Tensor, x, edit.call(_aten.sum.dim_IntList, edit.call(_aten.expand.default, w, [100, 2]), [0]))


def test_a_constant_that_grows_too_much_stays_with_what_is_computed_from_it() -> None:
    program, context = built((1, 2), _expanded, stage="float"), Context()
    assert FoldConstants(max_growth=791).apply(program, context) is program
    assert refusals(context) == ["expand_default: folding would add 792 bytes; raise max_growth above 791"]


def test_growth_up_to_the_limit_is_folded() -> None:
    after = applied(FoldConstants(max_growth=792), built((1, 2), _expanded, stage="float"))
    assert torch.equal(after.tensors["folded.sum_dim_int_list"], torch.tensor([50.0, 300.0]))


def test_a_constant_may_be_as_large_as_it_was() -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        return edit.call(_aten.linear.default, x, edit.call(_aten.neg.default, edit.add_tensor("w", torch.ones(600, 600))))

    context = Context()
    after = applied(FoldConstants(), built((1, 600), body, stage="float"), context)
    assert (operators(after), refusals(context)) == (["aten.linear"], [])


def test_other_constants_are_folded_beside_a_refused_one() -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        y: Any = edit.call(_aten.add.Tensor, x, edit.call(_aten.ones.default, [2]))
        return edit.call(_aten.add.Tensor, y, edit.call(_aten.ones.default, [1000, 1, 2]))

    context = Context()
    after = applied(FoldConstants(max_growth=100), built((1, 2), body, stage="float"), context)
    assert sorted(after.tensors) == ["folded.ones_default"]
    assert [refused.node for refused in context.refusals] == ["ones_default_1"]
