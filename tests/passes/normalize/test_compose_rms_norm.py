"""Root-mean-square normalisation put back together, however it was written; what is another one stays, with the reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from float_programs import applied, captured, operators, refusals, untouched
from fxpress_passes import Context
from fxpress_passes.normalize.compose_rms_norm import ComposeRmsNorm
from torch import Tensor, nn


class Weighted(nn.Module):
    def __init__(self, body: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 2.0, 8))
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x, self.weight)


def _rsqrt(x: Tensor) -> Tensor:
    return torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "weight first": lambda x, w: w * (x * _rsqrt(x)),
    "weight last": lambda x, w: (x * _rsqrt(x)) * w,
    "factor first": lambda x, w: w * (_rsqrt(x) * x),
    "own product": lambda x, w: w * (x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5)),
    "squared, epsilon first": lambda x, w: w * (x * torch.rsqrt(1e-5 + x.square().mean((-1,), True))),
}


@pytest.mark.parametrize("body", WAYS.values(), ids=WAYS)
def test_before_and_expected(body: Callable[[Tensor, Tensor], Tensor]) -> None:
    before = captured(Weighted(body), 2, 5, 8)
    after = applied(ComposeRmsNorm(), before)
    assert operators(after) == ["aten.rms_norm"]


def test_without_a_weight_and_with_two_readers() -> None:
    after = applied(ComposeRmsNorm(), captured(lambda x: x * _rsqrt(x), 2, 8))
    assert operators(after) == ["aten.rms_norm"]
    after = applied(ComposeRmsNorm(), captured(Weighted(lambda x, w: (n := x * _rsqrt(x)) * w + n), 2, 8))
    assert operators(after) == ["aten.rms_norm", "aten.mul.Tensor", "aten.add.Tensor"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6), "it normalises over another dimension than the last"),
        (lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + x[:, :1]), "its epsilon is computed"),
    ],
)
def test_another_normalisation_stays(body: Callable[[Tensor], Tensor], reason: str) -> None:
    program, context = captured(body, 2, 8, 8), Context()
    with untouched(program):
        assert ComposeRmsNorm().apply(program, context) is program
    assert any(reason in refusal for refusal in refusals(context))


@pytest.mark.parametrize(
    "body",
    [
        lambda x: x * torch.rsqrt((x * 2).pow(2).mean(-1, keepdim=True) + 1e-6),
        lambda x: x * torch.rsqrt(x.pow(3).mean(-1, keepdim=True) + 9),
    ],
)
def test_what_is_no_root_mean_square_stays(body: Callable[[Tensor], Tensor]) -> None:
    program = captured(body, 2, 8)
    assert ComposeRmsNorm().apply(program, Context()) is program
