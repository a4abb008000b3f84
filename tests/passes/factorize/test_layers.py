"""Linear layers and convolutions are found by their constant weight; those that cannot be split are refused with the reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from float_programs import Chain, captured, refusals
from fxpress_ir import Program
from fxpress_passes import Context
from fxpress_passes.factorize.layers import float_layers
from torch import Tensor, nn
from torch.nn import functional

BLIND = "its channels see too little of the input to share directions"


class Weighted(nn.Module):
    """`body` of the input and a weight of [6, 6] named w."""

    def __init__(self, body: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(6, 6, dtype=dtype))
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x, self.w)


def _found(program: Program) -> tuple[list[str], list[str]]:
    """The layers' names, and what was refused."""
    context = Context()
    return [layer.name for layer in float_layers(program, context)], refusals(context)


def test_layers_stand_in_order_with_their_weights() -> None:
    layers = (nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding="same"), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
    program, context = captured(Chain(*layers), 1, 3, 6, 6), Context()
    found = float_layers(program, context)
    assert [layer.name for layer in found] == ["conv2d", "conv2d_1", "linear"]
    assert [len(layer.nodes) for layer in found] == [1, 1, 1]
    for layer, module in zip(found, (layers[0], layers[1], layers[4]), strict=True):
        assert torch.equal(layer.weight, module.weight)
        assert not layer.weight.requires_grad
    assert context.refusals == []


def test_layers_that_share_a_weight_are_one_named_by_the_first() -> None:
    program = captured(Weighted(lambda x, w: functional.linear(functional.linear(x, w).relu(), w)), 1, 6)
    (layer,) = float_layers(program, Context())
    assert [node.name for node in layer.nodes] == ["linear", "linear_1"]
    assert layer.name == "linear"


def test_a_computed_weight_makes_no_layer() -> None:
    assert _found(captured(Weighted(lambda x, w: functional.linear(x, w * 2)), 1, 6)) == ([], [])
    assert _found(captured(Weighted(lambda x, w: x @ w), 1, 6)) == ([], [])


@pytest.mark.parametrize(
    ("layer", "what"),
    [
        (nn.Conv2d(6, 6, 3, groups=6), "depthwise"),
        (nn.Conv2d(6, 12, 3, groups=6), "depthwise"),
        (nn.Conv2d(6, 12, 3, groups=3), "in 3 groups"),
    ],
    ids=["depthwise", "with a multiplier", "groups"],
)
def test_grouped_convolutions_are_refused(layer: nn.Conv2d, what: str) -> None:
    assert _found(captured(Chain(layer), 1, 6, 5, 5)) == ([], [f"conv2d: its convolution is {what}: {BLIND}"])


@pytest.mark.parametrize(
    ("body", "reader"),
    [
        (lambda x, w: functional.linear(x, w) + w.sum(0), "sum_1"),
        (lambda x, w: functional.linear(functional.linear(x, w), w.t()), "t"),
        (lambda x, w: functional.linear(x, w) + functional.linear(w, w).sum(0), "linear_1"),
    ],
    ids=["sum", "transpose", "a layer's input"],
)
def test_a_weight_that_something_else_reads_is_refused(body: Callable[[Tensor, Tensor], Tensor], reader: str) -> None:
    assert _found(captured(Weighted(body), 1, 6)) == ([], [f"linear: {reader} reads the whole weight too"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_short_floats_are_refused_and_long_ones_are_not(dtype: torch.dtype) -> None:
    program = captured(Weighted(functional.linear, dtype), 1, 6, dtype=dtype)
    refused = f"linear: {dtype} factors would lose digits; convert the model to float32"
    assert _found(program) == ((["linear"], []) if dtype is torch.float64 else ([], [refused]))
