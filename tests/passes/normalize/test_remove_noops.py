"""y = noop(x) ==> x, where every bit, the type and the strides stay; the same operator where they do not stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from float_programs import applied, captured, operators, sample, untouched
from fxpress_ir import Edit, Program, text
from fxpress_passes import Context, RemoveNoops
from fxpress_passes.normalize.remove_noops import NOOPS
from support import built
from torch import Tensor, fx, nn
from torch.nn import functional

_aten = torch.ops.aten
Body = Callable[[Edit, fx.Node], fx.Node]


def _call(target: Any, *args: Any, **kwargs: Any) -> Body:
    """``target(x, *args, **kwargs)``."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        node = edit.call(target, x, *args)
        node.kwargs = kwargs
        return node

    return body


def _then(*bodies: Body) -> Body:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        for each in bodies:
            x = each(edit, x)
        return x

    return body


def _sized(target: Any, *rest: int) -> Body:
    """``target(x, [batch, *rest])``, the batch taken from x."""
    return lambda edit, x: edit.call(target, x, [edit.call(_aten.sym_size.int, x, 0), *rest])


@dataclass(frozen=True)
class Cases:
    """Bodies on x f32[batch, 4, 6, 6] in which the operator does nothing, and in which it does something."""

    noops: tuple[Body, ...]
    others: tuple[Body, ...]


TO, DOUBLE = (_aten.to.dtype, _aten.to.dtype_layout, _aten.to.device), torch.float64
SPARSE = _call(_aten.slice.Tensor, 3, 0, 3)
"""x[..., :3], whose strides are no longer those of its shape, so that copies have others."""
CASES: dict[Any, Cases] = {
    _aten.alias.default: Cases((_call(_aten.alias.default),), ()),
    _aten.detach.default: Cases((_call(_aten.detach.default),), ()),
    _aten.lift_fresh_copy.default: Cases((_call(_aten.lift_fresh_copy.default),), (_then(SPARSE, _call(_aten.lift_fresh_copy.default)),)),
    **{
        target: Cases((_call(target, 0.5, False), _call(target, 0.0, True)), (_call(target, 0.5, True),))
        for target in (_aten.dropout.default, _aten.feature_dropout.default, _aten.alpha_dropout.default)
    },
    _aten.clone.default: Cases(
        (_call(_aten.clone.default), _call(_aten.clone.default, memory_format=torch.contiguous_format)),
        (_then(SPARSE, _call(_aten.clone.default)), _call(_aten.clone.default, memory_format=torch.channels_last)),
    ),
    _aten.to.dtype: Cases(
        (_call(TO[0], torch.float32), _call(TO[0], torch.float32, False, True)),
        (_call(TO[0], torch.float16), _call(TO[0], torch.float32, memory_format=torch.channels_last)),
    ),
    _aten.to.dtype_layout: Cases((_call(TO[1], dtype=torch.float32), _call(TO[1])), (_call(TO[1], dtype=DOUBLE),)),
    _aten.to.device: Cases((_call(TO[2], torch.device("cpu"), torch.float32),), (_call(TO[2], torch.device("cpu"), DOUBLE),)),
    _aten.type_as.default: Cases(
        (lambda edit, x: edit.call(_aten.type_as.default, x, x),),
        (lambda edit, x: edit.call(_aten.type_as.default, x, edit.add_tensor("double", torch.ones(1, dtype=DOUBLE))),),
    ),
    _aten._to_copy.default: Cases((_call(_aten._to_copy.default),), (_call(_aten._to_copy.default, dtype=torch.bfloat16),)),
    _aten.view.default: Cases(
        (_sized(_aten.view.default, 4, 6, 6), _sized(_aten.view.default, 4, -1, 6)), (_sized(_aten.view.default, 6, 4, 6),)
    ),
    _aten.reshape.default: Cases((_sized(_aten.reshape.default, 4, 6, 6),), (_call(_aten.reshape.default, [-1]),)),
    _aten.flatten.using_ints: Cases((_call(_aten.flatten.using_ints, 2, 2),), (_call(_aten.flatten.using_ints, 1),)),
    _aten.expand.default: Cases(
        (_sized(_aten.expand.default, 4, 6, 6), _call(_aten.expand.default, [-1, -1, 6, -1])),
        (_then(_call(_aten.slice.Tensor, 1, 0, 1), _call(_aten.expand.default, [-1, 4, -1, -1])),),
    ),
    _aten.slice.Tensor: Cases(
        (_call(_aten.slice.Tensor, 1, 0, 4), _call(_aten.slice.Tensor, 0, 0, 2**63 - 1), _call(_aten.slice.Tensor, 1)),
        (_call(_aten.slice.Tensor, 1, 0, 3), _call(_aten.slice.Tensor, 2, 0, 6, 2), _call(_aten.slice.Tensor, 1, 1)),
    ),
    _aten.permute.default: Cases(
        (_call(_aten.permute.default, [0, 1, 2, 3]), _call(_aten.permute.default, [-4, -3, -2, -1])),
        (_call(_aten.permute.default, [0, 1, 3, 2]), _call(_aten.permute.default, [0, 2, 3, 1])),
    ),
    **{
        target: Cases((_call(target, [0, 0, 0, 0]), _call(target, [0, 0])), (_call(target, [0, 1, 0, 0]), _call(target, [1, 1])))
        for target in (_aten.pad.default, _aten.constant_pad_nd.default)
    },
    _aten.max_pool2d.default: Cases(
        (_call(_aten.max_pool2d.default, [1, 1]), _call(_aten.max_pool2d.default, [1, 1], [1, 1], [0, 0], [2, 2], True)),
        (_call(_aten.max_pool2d.default, [1, 1], [2, 2]), _call(_aten.max_pool2d.default, [3, 3], [1, 1], [1, 1])),
    ),
    _aten.mul.Tensor: Cases(
        (_call(_aten.mul.Tensor, 1), _call(_aten.mul.Tensor, 1.0)),
        (_call(_aten.mul.Tensor, 1.0001), _then(SPARSE, _call(_aten.mul.Tensor, 1))),
    ),
    _aten.div.Tensor: Cases((_call(_aten.div.Tensor, 1),), (_call(_aten.div.Tensor, -1),)),
}
"""One entry a row of NOOPS. Aliases and detached tensors always have the form of their source."""


def _program(body: Body, dtype: torch.dtype = torch.float32) -> Program:
    return built((1, 4, 6, 6), _then(body, _call(_aten.neg.default)), stage="float", dtype=dtype)


def _named(part: str) -> list[Any]:
    return [
        pytest.param(target, body, id=f"{str(target).removeprefix('aten.')}-{position}")
        for target, cases in CASES.items()
        for position, body in enumerate(getattr(cases, part))
    ]


def test_every_row_has_its_cases() -> None:
    assert CASES.keys() == NOOPS.keys()
    assert {target for target, cases in CASES.items() if not cases.others} == {_aten.alias.default, _aten.detach.default}


@pytest.mark.parametrize(("target", "body"), _named("noops"))
def test_what_does_nothing_goes(target: Any, body: Body) -> None:
    assert operators(applied(RemoveNoops(), _program(body))) == ["aten.neg"]


@pytest.mark.parametrize(("target", "body"), _named("others"))
def test_what_does_something_stays(target: Any, body: Body) -> None:
    program, context = _program(body), Context()
    with untouched(program):
        assert RemoveNoops().apply(program, context) is program
    assert target in [node.target for node in program.graph.nodes]
    assert context.refusals == []


@pytest.mark.parametrize("body", [_call(_aten.mul.Tensor, 1.0), _call(_aten.div.Tensor, 1), _call(_aten.to.dtype, torch.int32)])
def test_the_promotion_of_integers_stays(body: Body) -> None:
    program = _program(body, dtype=torch.int64)
    assert RemoveNoops().apply(program, Context()) is program


def test_an_integer_times_one_goes() -> None:
    assert operators(applied(RemoveNoops(), _program(_call(_aten.mul.Tensor, 1), dtype=torch.int64))) == ["aten.neg"]


@pytest.mark.parametrize("body", [_call(_aten.add.Tensor, 0), _call(_aten.avg_pool2d.default, [1, 1])], ids=["x + 0", "mean of one"])
def test_what_turns_minus_zero_into_zero_stays(body: Body) -> None:
    program = _program(body)
    (result,) = program.run(torch.full((1, 4, 6, 6), -0.0))
    assert bool(result.signbit().all())  # neg of +0: the sign was lost before
    assert RemoveNoops().apply(program, Context()) is program


def test_a_slice_of_as_many_samples_as_the_example_had_is_not_the_whole_batch() -> None:
    program = captured(lambda x: x[:2] * 3, 2, 4)
    assert RemoveNoops().apply(program, Context()) is program


def test_a_copy_on_whose_strides_a_view_relies_stays() -> None:
    program = captured(lambda x: x.narrow(1, 0, 3).clone().view(-1), 1, 4)
    assert RemoveNoops().apply(program, Context()) is program
    assert program.run(*sample(program, 3))[0].shape == (9,)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dropout(functional.relu(x.to(torch.float32))).view(x.shape[0], 4, 6)
        result: Tensor = self.dropout((y[:, 0:4].expand(-1, -1, 6) * 1).transpose(1, 2).flatten(1))
        return result


EXPECTED = """\
float program(x: float32[batch, 4, 6])
  relu = aten.relu(x) : f32[batch, 4, 6]
  transpose = aten.transpose.int(relu, 1, 2) : f32[batch, 6, 4]
  flatten = aten.flatten.using_ints(transpose, 1) : f32[batch, 24]
  return flatten"""


def test_before_and_expected() -> None:
    before = captured(Net(), 1, 4, 6)
    assert operators(before) == [
        "aten.sym_size.int", "aten.to.dtype", "aten.relu", "aten.dropout", "aten.view",
        "aten.slice.Tensor", "aten.expand", "aten.mul.Tensor", "aten.transpose.int", "aten.flatten.using_ints", "aten.dropout",
    ]  # fmt: skip
    after = applied(RemoveNoops(), before)
    assert text(after) == EXPECTED
    assert RemoveNoops().apply(after, Context()) is after


def test_an_input_may_be_returned_as_it_is() -> None:
    program = applied(RemoveNoops(), captured(lambda x: functional.dropout(x, 0.5, training=False), 1, 4))
    assert operators(program) == []
    assert program.outputs() == program.placeholders()
