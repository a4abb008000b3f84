"""Pools, convolutions and means over one dimension become those over images of height 1; pools and means keep their bits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from float_programs import BATCHES, Chain, Function, applied, captured, operators, refusals, sample, untouched
from fxpress_ir import Program, capture
from fxpress_passes import Context
from fxpress_passes.contract import difference
from fxpress_passes.normalize.decompose_pool1d import DecomposePool1d
from quantized import quantized
from torch import Tensor, nn
from torch.nn import functional

POOLS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "adaptive": (lambda x: functional.adaptive_avg_pool1d(x, 1), "aten.adaptive_avg_pool2d"),
    "adaptive, uneven": (lambda x: functional.adaptive_avg_pool1d(x, 5), "aten.adaptive_avg_pool2d"),
    "average": (lambda x: functional.avg_pool1d(x, 3), "aten.avg_pool2d"),
    "average, all options": (lambda x: functional.avg_pool1d(x, 4, 3, 1, True, False), "aten.avg_pool2d"),
    "maximum": (lambda x: functional.max_pool1d(x, 2), "aten.max_pool2d"),
    "maximum, all options": (lambda x: functional.max_pool1d(x, 3, 2, 1, 2, True), "aten.max_pool2d"),
}
CONVOLUTIONS: dict[str, tuple[nn.Module, str]] = {
    "plain": (nn.Conv1d(4, 6, 3), "aten.conv2d"),
    "all options": (nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2, bias=False), "aten.conv2d"),
    "same": (nn.Conv1d(4, 6, 3, padding="same"), "aten.conv2d.padding"),
}


def applied_exactly(program: Program) -> Program:
    """The result, which has the bits of `program` though the pass promises less."""
    after = applied(DecomposePool1d(), program)
    for batch in BATCHES:
        inputs = sample(program, batch, seed=batch)
        assert torch.equal(after.run(*inputs)[0], program.run(*inputs)[0])
    return after


@pytest.mark.parametrize("name", POOLS)
def test_a_pool_is_one_of_images(name: str) -> None:
    body, expected = POOLS[name]
    after = applied_exactly(captured(body, 2, 4, 13))
    assert operators(after) == ["aten.unsqueeze", expected, "aten.squeeze.dim"]


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_is_one_of_images(name: str) -> None:
    layer, expected = CONVOLUTIONS[name]
    before = captured(Chain(layer), 2, 4, 13)
    after = applied(DecomposePool1d(), before)
    assert operators(after) == ["aten.unsqueeze", expected, "aten.squeeze.dim"]
    (weight,) = [tensor for name, tensor in after.tensors.items() if name.endswith(".image")]
    assert torch.equal(weight.squeeze(2), before.tensors["0.weight"])
    assert "0.weight" not in after.tensors


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("dim", [1, 2, -1, -2])
def test_a_mean_of_one_dimension_is_one_of_images(dim: int, keepdim: bool) -> None:
    after = applied_exactly(captured(lambda x: x.mean(dim, keepdim), 2, 7, 5))
    turned = ["aten.permute"] if dim % 3 == 1 else []
    assert operators(after) == [*turned, "aten.unsqueeze", "aten.mean.dim", *["aten.unsqueeze"] * keepdim]


def test_a_mean_of_the_first_dimension() -> None:
    before = capture(Function(lambda x: x.mean(0, True)), (torch.zeros(4, 2, 3),), dynamic_shapes=({1: torch.export.Dim("batch")},))
    after = DecomposePool1d().apply(before, Context())
    assert operators(after)[:2] == ["aten.permute", "aten.unsqueeze"]
    x = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(after.run(x)[0], before.run(x)[0])


def test_a_length_that_nothing_needs_stays_symbolic() -> None:
    dynamic = ({0: torch.export.Dim("batch"), 2: torch.export.Dim("length", min=4)},)
    before = capture(Chain(nn.Conv1d(3, 4, 3)), (torch.zeros(2, 3, 8),), dynamic_shapes=dynamic)
    after = DecomposePool1d().apply(before, Context())
    for length in (4, 9):
        x = torch.randn(3, 3, length, generator=torch.Generator().manual_seed(length))
        torch.testing.assert_close(after.run(x)[0], before.run(x)[0], rtol=1e-5, atol=1e-5)  # sums in another order


def _symbolic_mean() -> Program:
    dynamic = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("seq")},)
    return capture(Function(lambda x: x.mean(1)), (torch.zeros(2, 5, 8),), dynamic_shapes=dynamic)


@pytest.mark.parametrize(
    ("program", "refused"),
    [
        (_symbolic_mean, "mean: the dimension that it averages is symbolic; it stays as it is"),
        (lambda: captured(lambda x: x.mean(1, dtype=torch.float64), 2, 5, 8), "mean: it computes in torch.float64; it stays as it is"),
        (lambda: captured(lambda x: functional.max_pool1d(x, 2), 2, 8), "max_pool1d: its input has no batch dimension; it stays as it is"),
        (
            lambda: captured(lambda x: functional.conv1d(x, x[:2] * 2), 2, 5, 8),
            "conv1d: its weight is computed, not constant; it stays as it is",
        ),
        (lambda: captured(lambda x: x.mean((1, 2)), 2, 5, 8), None),
        (lambda: captured(lambda x: x.mean(1), 2, 5, 8, 3), None),
    ],
    ids=["symbolic", "another type", "no batch", "computed weight", "two dimensions", "one of four"],
)
def test_what_is_refused_or_no_concern(program: Callable[[], Program], refused: str | None) -> None:
    before, context = program(), Context()
    with untouched(before):
        assert DecomposePool1d().apply(before, context) is before
    assert refusals(context) == ([] if refused is None else [refused])


class Signal(nn.Module):
    """Every operator that this pass writes anew, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(4)
            self.first, self.second = nn.Conv1d(3, 8, 3, padding=1), nn.Conv1d(8, 8, 3, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool1d(functional.relu(self.first(x)), 2)
        x = functional.avg_pool1d(self.second(x), 3, 2, 1, count_include_pad=False)
        x = functional.adaptive_avg_pool1d(x, 5)
        return x.mean(2) + x.transpose(1, 2).mean(1, keepdim=True).squeeze(1)


def test_the_results_have_integer_forms() -> None:
    before = captured(Signal(), 2, 3, 24)
    integer = quantized(DecomposePool1d().apply(before, Context()), integer_only=True).integer
    for batch in BATCHES:
        inputs = sample(before, batch, seed=batch)
        assert difference(before.run(*inputs), integer.run(*inputs)).sqnr >= 30
