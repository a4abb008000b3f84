"""Products with constant matrices become linear layers; products of activations and scaled ones stay."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from float_programs import applied, captured, operators, refusals, untouched
from fxpress_passes import Context
from fxpress_passes.normalize.compose_linear import ComposeLinear
from torch import Tensor, nn


class Product(nn.Module):
    def __init__(self, body: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight, self.bias = nn.Parameter(torch.randn(6, 5, generator=generator)), nn.Parameter(torch.randn(5, generator=generator))
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x, self.weight, self.bias)


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        (lambda x, w, b: torch.addmm(b, x, w), (2, 6)),
        (lambda x, w, b: torch.mm(x, w), (2, 6)),
        (lambda x, w, b: x @ w, (2, 3, 4, 6)),
    ],
    ids=["addmm", "mm", "matmul"],
)
def test_before_and_expected(body: Callable[..., Tensor], shape: tuple[int, ...]) -> None:
    after = applied(ComposeLinear(), captured(Product(body), *shape))
    assert operators(after) == ["aten.linear"]
    (weight,) = [tensor for name, tensor in after.tensors.items() if name.endswith(".transposed")]
    assert weight.shape == (5, 6)
    assert weight.is_contiguous()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda x, w, b: torch.addmm(b, x, w, alpha=2), "it scales its product by 2 and its bias by 1"),
        (lambda x, w, b: torch.addmm(b.sum() * x[:, :5], x, w), "its bias is no constant of one value a column"),
        (lambda x, w, b: x.unsqueeze(2) @ x.unsqueeze(1), None),
    ],
    ids=["scaled", "computed bias", "activations"],
)
def test_what_is_no_linear_layer_stays(body: Callable[..., Tensor], reason: str | None) -> None:
    program, context = captured(Product(body), 2, 6), Context()
    with untouched(program):
        assert ComposeLinear().apply(program, context) is program
    assert refusals(context) == ([] if reason is None else [f"addmm: {reason}; it stays a product"])
