"""Which elements of a result depend on the first position alone, operator by operator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fxpress_passes.equalize.first_rules import RULES, UNSEEN, Known
from torch import Tensor, fx

_aten = torch.ops.aten
FIRST = torch.tensor([[[True, True], [False, False], [False, True]]])
"""[1, 3, 2]: of the first position all, of the third one channel."""
WHOLE = torch.ones(1, 3, 2, dtype=torch.bool)


def applied(target: Any, *operands: Known | Any, shape: tuple[int, ...] = (1, 3, 2)) -> Known:
    """A rule's result; what is no `Known` is an argument as it stands."""
    graph, known = fx.Graph(), dict[fx.Node, Known]()

    def node(operand: Any) -> Any:
        if not isinstance(operand, Known):
            return operand
        made = graph.placeholder(f"x{len(known)}")
        made.meta["val"] = torch.zeros(operand.first.shape)
        known[made] = operand
        return made

    call = graph.call_function(target, tuple(map(node, operands)))
    return RULES[target](call, known.__getitem__, list(shape))


def constant(value: Tensor) -> Known:
    return Known(torch.ones(value.shape, dtype=torch.bool), value)


def test_elementwise_operators_need_all_operands() -> None:
    other = Known(torch.tensor([[[True, False]] * 3]))
    assert torch.equal(applied(_aten.mul.Tensor, Known(FIRST), other).first, FIRST & other.first)
    assert torch.equal(applied(_aten.gelu.default, Known(FIRST)).first, FIRST)
    assert torch.equal(applied(_aten.add.Tensor, Known(FIRST), constant(torch.ones(2))).first, FIRST)


def test_layers_and_normalisations_mix_channels() -> None:
    rows = FIRST.all(-1, keepdim=True).expand(1, 3, 4)
    weight, bias = constant(torch.ones(4, 2)), constant(torch.ones(4))
    assert torch.equal(applied(_aten.linear.default, Known(FIRST), weight, bias, shape=(1, 3, 4)).first, rows)
    assert torch.equal(applied(_aten.layer_norm.default, Known(FIRST), [2]).first, rows[..., :2])
    assert torch.equal(applied(_aten.rms_norm.default, Known(FIRST), [2], constant(torch.ones(2))).first, rows[..., :2])


@pytest.mark.parametrize("target", [_aten.linear.default, _aten.embedding.default])
def test_a_computed_weight_is_not_followed(target: Any) -> None:
    weight = Known(torch.ones(2, 2, dtype=torch.bool))
    operands = (Known(WHOLE), weight) if target is _aten.linear.default else (weight, Known(WHOLE[..., 0]))
    assert not applied(target, *operands).first.any()


def test_a_mean_mixes_what_it_runs_over() -> None:
    assert applied(_aten.mean.dim, Known(FIRST), [2], shape=(1, 3)).first.tolist() == [[True, False, False]]
    assert applied(_aten.mean.dim, Known(FIRST), [1], shape=(1, 2)).first.tolist() == [[False, False]]


def test_an_embedding_takes_whole_rows() -> None:
    found = applied(_aten.embedding.default, constant(torch.ones(5, 2)), Known(FIRST[..., 0]))
    assert torch.equal(found.first, FIRST[..., :1].expand(1, 3, 2))


SCORES = Known(torch.tensor([[[True, False, False]] + [[False] * 3] * 2]))
"""[1, 3, 3]: the first query's score of the first key."""
TRIANGLE = torch.ones(3, 3, dtype=torch.bool).tril()


def _masked(how: str) -> Known:
    if how == "where":
        return applied(_aten.where.ScalarOther, constant(TRIANGLE), SCORES, -1e9, shape=(1, 3, 3))
    if how == "fill":
        return applied(_aten.masked_fill.Scalar, SCORES, constant(~TRIANGLE), float("-inf"), shape=(1, 3, 3))
    return applied(_aten.add.Tensor, SCORES, constant(torch.zeros(3, 3).masked_fill(~TRIANGLE, UNSEEN)), shape=(1, 3, 3))


@pytest.mark.parametrize("how", ["where", "fill", "term"])
@pytest.mark.parametrize("softmax", [_aten.softmax.int, _aten._safe_softmax.default])
def test_causal_attention_leaves_the_first_position_to_itself(how: str, softmax: Any) -> None:
    scores = _masked(how)
    probabilities = applied(softmax, scores, -1, shape=(1, 3, 3))
    assert probabilities.zero is not None
    assert torch.equal(probabilities.zero[0], ~TRIANGLE)
    assert probabilities.first[0].all(-1).tolist() == [True, False, False]
    found = applied(_aten.matmul.default, probabilities, Known(FIRST))
    assert found.first.tolist() == [[[True, True], [False, False], [False, False]]]


def test_other_attention_does_not() -> None:
    probabilities = applied(_aten.softmax.int, SCORES, -1, shape=(1, 3, 3))
    assert not probabilities.first.any()
    assert not applied(_aten.matmul.default, probabilities, Known(FIRST)).first.any()


def test_a_fill_that_is_seen_hides_nothing() -> None:
    scores = applied(_aten.where.ScalarOther, constant(TRIANGLE), SCORES, -10.0, shape=(1, 3, 3))
    probabilities = applied(_aten.softmax.int, scores, -1, shape=(1, 3, 3))
    assert probabilities.zero is not None
    assert not probabilities.zero.any()
    assert not applied(_aten.matmul.default, probabilities, Known(FIRST)).first.any()


def test_where_nothing_is_seen_nothing_is_zero() -> None:
    scores = applied(_aten.where.ScalarOther, constant(TRIANGLE & ~torch.eye(3, dtype=torch.bool)), SCORES, -1e9, shape=(1, 3, 3))
    probabilities = applied(_aten.softmax.int, scores, -1, shape=(1, 3, 3))
    assert probabilities.zero is not None
    assert not probabilities.zero[0, 0].any()


def test_a_mask_that_is_computed_hides_nothing_for_certain() -> None:
    mask = Known(torch.ones(3, 3, dtype=torch.bool))
    scores = applied(_aten.where.ScalarOther, mask, SCORES, -1e9, shape=(1, 3, 3))
    probabilities = applied(_aten.softmax.int, scores, -1, shape=(1, 3, 3))
    assert probabilities.zero is not None
    assert not probabilities.zero.any()
