"""Masks that are functions of booleans become booleans, whatever floats and fills they are written with."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from float_programs import captured, operators, refusals, untouched
from fxpress_ir import Program, capture, verify
from fxpress_passes import ComposeMasks, Context
from fxpress_passes.contract import difference
from fxpress_passes.pipeline import Pipeline
from torch import Tensor, nn

LOWEST = torch.finfo(torch.float32).min
BEFORE = torch.ones(6, 6, dtype=torch.bool).tril()
Body = Callable[[Tensor, Tensor], Tensor]


class Masked(nn.Module):
    """``body(scores, mask)``, and constants that it may read."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.body(x, mask)


def _captured(body: Body, dtype: torch.dtype = torch.int64) -> Program:
    """Scores [batch, 2, seq, seq] and a mask [batch, seq]."""
    batch, seq = torch.export.Dim("batch"), torch.export.Dim("seq", min=2, max=9)
    example = torch.zeros(2, 2, 5, 5), torch.ones(2, 5).to(dtype)
    program = capture(Masked(body).eval(), example, dynamic_shapes=({0: batch, 2: seq, 3: seq}, {0: batch, 1: seq}))
    return Pipeline.parse("remove-noops, fold-constants, fold-positions").run(program).program


def _inputs(batch: int, length: int, dtype: torch.dtype = torch.int64) -> tuple[Tensor, Tensor]:
    """Each row sees its first key."""
    generator = torch.Generator().manual_seed(batch + length)
    mask = torch.rand(batch, length, generator=generator) > 0.4
    mask[:, 0] = True
    return torch.randn(batch, 2, length, length, generator=generator), mask.to(dtype)


def _applied(program: Program, dtype: torch.dtype = torch.int64) -> list[str]:
    """The operators of the result, which is the same function and has nothing left to do."""
    with untouched(program):
        after = ComposeMasks().apply(program, Context())
    assert after is not program
    verify(after)
    assert ComposeMasks().apply(after, Context()) is after
    for batch, length in ((1, 6), (3, 9), (2, 2)):
        x = _inputs(batch, length, dtype)
        found = difference(program.run(*x), after.run(*x))
        assert ComposeMasks.promise.held(found), f"found {found} for {batch} x {length}"
        assert bool(((after.run(*x)[0] == 0) == (program.run(*x)[0] == 0)).all())
    return operators(after)


VIEWED = ["aten.unsqueeze", "aten.unsqueeze"]
CAUSAL = ["aten.sym_size.int", "aten.slice.Tensor", "aten.slice.Tensor"]
OTHER = "its mask is computed by other operators than comparisons and logic"
FILLED = ["aten.where.ScalarOther", "aten.softmax.int"]
ADDED = ["aten.where.Scalar", "aten.add.Tensor", "aten.softmax.int"]
"""Scores that keep what -10000 is added to: where nothing is seen they still differ."""
INTEGERS: dict[str, tuple[Body, list[str]]] = {
    "(1 - m) * lowest": (lambda x, m: (x + (1.0 - m[:, None, None].float()) * LOWEST).softmax(-1), ["aten.eq.Scalar", *VIEWED, *FILLED]),
    "(m - 1) * 10000": (lambda x, m: ((m.float() - 1)[:, None, None] * 1e4 + x).softmax(-1), ["aten.eq.Scalar", *VIEWED, *ADDED]),
    "(1 - m) of integers": (lambda x, m: (x + (1 - m[:, None, None]) * -1e4).softmax(-1), [*VIEWED, "aten.eq.Scalar", *ADDED]),
    "filled where 1 - m is true": (
        lambda x, m: (x + _inverted(m[:, None, None].float())).softmax(-1),
        ["aten.unsqueeze", "aten.unsqueeze", "aten.eq.Scalar", *FILLED],
    ),
    "filled scores": (
        lambda x, m: x.masked_fill(m[:, None, None] == 0, float("-inf")).softmax(-1),
        [*VIEWED, "aten.ne.Scalar", *FILLED],
    ),
    "a number chosen first": (
        lambda x, m: torch.where((m < 1)[:, None, None], torch.tensor(-1e9), x).softmax(-1),
        ["aten.ge.Scalar", *VIEWED, *FILLED],
    ),
    "a cast": (
        lambda x, m: (x + torch.where(m.bool()[:, None, None], torch.tensor(0.0), LOWEST)).softmax(-1),
        ["aten.ne.Scalar", *VIEWED, *FILLED],
    ),
    "two masks": (
        lambda x, m: (torch.where((m > 0)[:, None, None], x, -60.0) + (1.0 - m[:, None, None].float()) * -1e4).softmax(-1),
        ["aten.gt.Scalar", *VIEWED, "aten.eq.Scalar", *VIEWED, *ADDED[:2], *FILLED],
    ),
}


def _inverted(m: Tensor) -> Tensor:
    left = 1.0 - m
    return left.masked_fill(left.bool(), LOWEST)


@pytest.mark.parametrize("name", INTEGERS)
def test_masks_of_integers(name: str) -> None:
    body, expected = INTEGERS[name]
    assert sorted(_applied(_captured(body))) == sorted(expected)


def _safe(x: Tensor) -> Tensor:
    result: Tensor = torch.ops.aten._safe_softmax(x, -1)
    return result


SAFE = ["aten.where.ScalarOther", "aten._safe_softmax"]
UNSEEN: dict[str, tuple[Body, list[str], Callable[[Tensor], Tensor]]] = {
    "0 where -inf is a fill": (lambda x, m: _safe(x.masked_fill(m[:, None, None] == 0, -math.inf)), SAFE, lambda x: 0 * x),
    "0 where -inf is added": (
        lambda x, m: _safe(x + torch.zeros(m.shape)[:, None, None].masked_fill(m[:, None, None] < 1, -math.inf)),
        SAFE,
        lambda x: 0 * x,
    ),
    "the mean where the lowest number is": (
        lambda x, m: _safe(x + (1.0 - m[:, None, None].float()) * LOWEST),
        ["aten.where.ScalarOther", "aten._safe_softmax"],
        lambda x: torch.full_like(x, 1 / x.shape[-1]),
    ),
    "what there is without the mask where -10000 is": (
        lambda x, m: _safe(x + (1.0 - m[:, None, None].float()) * -1e4),
        ["aten.add.Tensor", "aten.where.Scalar", "aten._safe_softmax"],
        lambda x: (x - 1e4).softmax(-1),
    ),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_a_query_that_sees_nothing_gives_what_it_gave(name: str) -> None:
    body, expected, row = UNSEEN[name]
    program = _captured(body)
    assert set(expected) <= set(_applied(program))
    x, mask = _inputs(3, 6)
    mask[1] = 0
    after = ComposeMasks().apply(program, Context()).run(x, mask)[0]
    torch.testing.assert_close(after, program.run(x, mask)[0])
    torch.testing.assert_close(after[1], row(x[1]))


BOOLEANS: dict[str, tuple[Body, list[str]]] = {
    "hidden where false": (lambda x, m: x.masked_fill(~m[:, None, None], -1e9).softmax(-1), [*VIEWED, *FILLED]),
    "true everywhere": (lambda x, m: (x + (m | ~m)[:, None, None].float().log()).softmax(-1), ["aten.softmax.int"]),
    "a fill of the numbers of another": (
        lambda x, m: (x + m.float()[:, None, None].sub(1).masked_fill(~m[:, None, None], LOWEST)).softmax(-1),
        [*VIEWED, *FILLED],
    ),
    "viewed together": (
        lambda x, m: x.masked_fill((m[:, None] & _causal(m)).unsqueeze(1).logical_not(), -1e9).softmax(-1),
        [*VIEWED, *CAUSAL, "aten.logical_and", "aten.unsqueeze", *FILLED],
    ),
    "either": (
        lambda x, m: torch.where(m[:, None, None] | m[:, None, :, None], x, float("-inf")).softmax(-1),
        ["aten.unsqueeze", *VIEWED, "aten.logical_or", *FILLED],
    ),
    "one and not the other": (
        lambda x, m: torch.where(m[:, None, None] ^ _causal(m)[:1], LOWEST, x).softmax(-1),
        [
            *("aten.logical_not", *VIEWED, *CAUSAL[:2], *VIEWED, "aten.logical_and"),
            *(*VIEWED, *CAUSAL[1:2], *VIEWED, "aten.logical_and", "aten.logical_or", *FILLED),
        ],
    ),
}


def _causal(m: Tensor) -> Tensor:
    return torch.ones(m.shape[1], m.shape[1], dtype=torch.bool).tril()


@pytest.mark.parametrize("name", BOOLEANS)
def test_masks_of_booleans(name: str) -> None:
    body, expected = BOOLEANS[name]
    assert sorted(_applied(_captured(body, torch.bool), torch.bool)) == sorted(expected)


def test_terms_beside_masks_stay() -> None:
    """Constants, which may hide keys too, are left to `separate-masks`."""
    bias = torch.where(BEFORE, 0.5, -100.0)
    program = captured(_Biased(bias), 2, 2, 6, 6)
    after = Pipeline.parse("compose-masks, separate-masks").run(program).program
    assert operators(after) == [
        "aten.mul.Tensor",
        "aten.add.Tensor",
        "aten.where.ScalarOther",
        "aten.where.ScalarOther",
        "aten.softmax.int",
    ]
    x = torch.randn(3, 2, 6, 6)
    assert ComposeMasks.promise.held(difference(program.run(x), after.run(x)))
    assert bool((after.run(x)[0] == 0)[:, :, ~BEFORE].all())


class _Biased(nn.Module):
    """A constant that adds, one that hides, and one that fills."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("bias", bias)
        self.register_buffer("odd", torch.arange(6) % 2 == 1)

    def forward(self, x: Tensor) -> Tensor:
        return (x * 0.5 + torch.zeros(6).masked_fill(self.odd, -1e9) + self.bias).softmax(-1)


LEFT: dict[str, tuple[Body, list[str]]] = {
    "numbers that neither hide nor are 0": (lambda x, m: (x + m[:, None, None].float()).softmax(-1), []),
    "a comparison of what is computed": (lambda x, m: x.masked_fill((m.float() * 2 == 2)[:, None, None], -1e9).softmax(-1), [OTHER]),
    "a sum along the mask": (lambda x, m: x.masked_fill((m.cumsum(1) > 2)[:, None, None], -1e9).softmax(-1), [OTHER]),
    "an integer that no probe tells apart": (
        lambda x, m: (x + (m - 7).bool()[:, None, None].float().log()).softmax(-1),
        [OTHER],
    ),
    "a fill that hides nothing": (lambda x, m: x.masked_fill((m > 0)[:, None, None], -49.0).softmax(-1), []),
    "all is hidden": (lambda x, m: torch.where((m[:, None, None] > 0) & False, x, -1e9).softmax(-1), ["softmax: its mask hides all keys"]),
    "more dimensions than the scores": (
        lambda x, m: x.masked_fill((m[:, None, None, None] < 1), -1e9).softmax(-1),
        ["softmax: its mask makes scores of shape"],
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_no_mask_of_booleans_stays(name: str) -> None:
    body, reasons = LEFT[name]
    program, context = _captured(body), Context()
    with untouched(program):
        assert ComposeMasks().apply(program, context) is program
    assert len(refusals(context)) == len(reasons)
    assert all(reason in found for reason, found in zip(reasons, refusals(context), strict=True))


def test_other_types_than_float32_stay() -> None:
    body = _captured(lambda x, m: x.double().masked_fill((m < 1)[:, None, None], -1e9).softmax(-1))
    context = Context()
    assert ComposeMasks().apply(body, context) is body
    assert refusals(context) == ["softmax: it computes in torch.float64; the mask stays as it is"]
