"""conv -> batch_norm ==> conv, near the float64 reference; what cannot be folded is left alone with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from float_programs import BATCHES, Chain, applied, captured, operators, refusals, sample, untouched
from fxpress_ir import Edit, Program, text
from fxpress_passes import Context, FoldBatchNorm
from support import built
from torch import Tensor, fx, nn
from torch.nn import functional

_aten = torch.ops.aten
NORMS: dict[int, Any] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
"""Dimensions of the input ==> norm."""


def _norm(dimensions: int, channels: int, *, affine: bool = True, seed: int = 0) -> nn.Module:
    """A norm with the statistics, gains and shifts of a trained network, one channel nearly constant."""
    generator = torch.Generator().manual_seed(seed)
    norm: nn.Module = NORMS[dimensions](channels, affine=affine)
    norm.running_mean = torch.randn(channels, generator=generator)
    norm.running_var = 0.2 + 3 * torch.rand(channels, generator=generator)
    norm.running_var[0] = 1e-6
    if affine:
        norm.weight = nn.Parameter(torch.randn(channels, generator=generator))
        norm.bias = nn.Parameter(torch.randn(channels, generator=generator))
    return norm


def _pair(layer: nn.Module, *shape: int, affine: bool = True) -> tuple[nn.Module, tuple[int, ...]]:
    """layer -> norm -> relu and the shape that it takes."""
    channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    assert isinstance(channels, int)
    return Chain(layer, _norm(len(shape), channels, affine=affine), nn.ReLU()).eval(), shape


PAIRS: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {
    "conv2d": lambda: _pair(nn.Conv2d(3, 5, 3), 1, 3, 8, 8),
    "conv2d without bias": lambda: _pair(nn.Conv2d(3, 5, 3, bias=False), 1, 3, 8, 8),
    "norm without gain and shift": lambda: _pair(nn.Conv2d(3, 5, 3), 1, 3, 8, 8, affine=False),
    "neither bias nor gain": lambda: _pair(nn.Conv2d(3, 5, 3, bias=False), 1, 3, 8, 8, affine=False),
    "grouped": lambda: _pair(nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), 1, 4, 8, 8),
    "depthwise": lambda: _pair(nn.Conv2d(4, 8, 3, groups=4, bias=False), 1, 4, 8, 8),
    "padding same": lambda: _pair(nn.Conv2d(3, 5, 3, padding="same"), 1, 3, 8, 8),
    "conv1d": lambda: _pair(nn.Conv1d(3, 5, 3), 1, 3, 8),
    "conv3d": lambda: _pair(nn.Conv3d(2, 3, 2), 1, 2, 4, 4, 4),
    "linear": lambda: _pair(nn.Linear(6, 4), 1, 6),
    "linear without bias": lambda: _pair(nn.Linear(6, 4, bias=False), 1, 6),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_folded_layer_is_the_float64_reference(name: str) -> None:
    model, shape = PAIRS[name]()
    program, context = captured(model, *shape), Context()
    after = applied(FoldBatchNorm(), program, context)
    assert (operators(after), refusals(context)) == ([operators(program)[0], "aten.relu"], [])
    assert sorted(after.tensors) == ["0.folded.bias", "0.folded.weight"]
    assert {tensor.dtype for tensor in after.tensors.values()} == {torch.float32}
    assert FoldBatchNorm().apply(after, Context()) is after
    precise = model.double()
    for batch in BATCHES:
        (x,) = sample(program, batch, seed=5)
        with torch.no_grad():
            expected = precise(x.double())
        error = (after.run(x)[0].double() - expected).abs().max() / expected.abs().max()
        assert error < 1e-5  # float32 sums of at most 54 products, each factor rounded once


EXPECTED = """\
float program(x: float32[batch, 2, 6, 6])
  %0.folded.weight : f32[3, 2, 3, 3]
  %0.folded.bias : f32[3]
  conv2d = aten.conv2d(x, %0.folded.weight, %0.folded.bias) : f32[batch, 3, 4, 4]
  relu = aten.relu(conv2d) : f32[batch, 3, 4, 4]
  return relu"""


def test_before_and_expected() -> None:
    layer = nn.Conv2d(2, 3, 3)
    norm = _norm(4, 3)
    after = applied(FoldBatchNorm(), captured(Chain(layer, norm, nn.ReLU()), 1, 2, 6, 6))
    assert text(after) == EXPECTED
    weight, bias = (tensor.detach().double() for tensor in layer.parameters())
    gain, shift = (tensor.detach().double() for tensor in norm.parameters())
    mean, variance, _ = (tensor.double() for tensor in norm.buffers())
    factor = gain / (variance + 1e-5).sqrt()
    assert torch.equal(after.tensors["0.folded.weight"], (weight * factor[:, None, None, None]).float())
    assert torch.equal(after.tensors["0.folded.bias"], ((bias - mean) * factor + shift).float())


def test_a_double_program_stays_double() -> None:
    program = captured(Chain(nn.Conv2d(2, 3, 3), _norm(4, 3)).double(), 1, 2, 6, 6, dtype=torch.float64)
    assert {tensor.dtype for tensor in applied(FoldBatchNorm(), program).tensors.values()} == {torch.float64}


class Shared(nn.Module):
    """One convolution read by two norms in turn: it runs twice on different inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.first, self.second = _norm(4, 3, seed=1), _norm(4, 3, seed=2)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.first(self.conv(x)))
        result: Tensor = self.second(self.conv(y)) + self.conv(x)
        return result


def test_a_shared_weight_is_copied_for_each_norm_and_kept_for_the_rest() -> None:
    program = captured(Shared(), 1, 3, 6, 6)
    after = applied(FoldBatchNorm(), program)
    folded = {"conv.folded.weight", "conv.folded.bias", "conv.folded.weight_1", "conv.folded.bias_1"}
    assert after.tensors.keys() == {"conv.weight", "conv.bias", *folded}
    assert after.tensors["conv.weight"] is program.tensors["conv.weight"]
    assert "aten.batch_norm" not in operators(after)


def _normed(edit: Edit, x: fx.Node, *, training: bool = False) -> fx.Node:
    """batch_norm of x, which has 3 channels."""
    values = [edit.add_tensor(name, torch.tensor([0.5, 1.0, 2.0])) for name in ("gain", "shift", "mean", "variance")]
    return edit.call(_aten.batch_norm.default, x, *values, training, 0.1, 1e-5, False)


def _conv(edit: Edit, x: fx.Node, weight: fx.Node | None = None) -> fx.Node:
    kernel = torch.arange(81.0).reshape(3, 3, 3, 3) / 81
    return edit.call(_aten.conv2d.default, x, weight or edit.add_tensor("w", kernel), None)


def _computed_weight(edit: Edit, x: fx.Node) -> fx.Node:
    return _normed(edit, _conv(edit, x, edit.call(_aten.neg.default, edit.add_tensor("w", torch.ones(3, 3, 3, 3)))))


def _read_twice(edit: Edit, x: fx.Node) -> fx.Node:
    conv = _conv(edit, x)
    return edit.call(_aten.add.Tensor, _normed(edit, conv), edit.call(_aten.relu.default, conv))


ALONE: dict[str, tuple[Callable[[], Program], str]] = {
    "no layer": (
        lambda: captured(Chain(nn.ReLU(), _norm(4, 3)), 1, 3, 6, 6),
        "batch_norm: it follows relu, which is no convolution or linear, and it is read by an output",
    ),
    "an input": (
        lambda: captured(Chain(_norm(4, 3)), 1, 3, 6, 6),
        "batch_norm: it follows x, which is no convolution or linear, and it is read by an output",
    ),
    "read twice": (
        lambda: built((1, 3, 6, 6), _read_twice, stage="float"),
        "batch_norm_default: the output of conv2d_default is also read by relu_default, and it is read by add_tensor, which is no",
    ),
    "training": (
        lambda: built((1, 3, 6, 6), lambda edit, x: _normed(edit, _conv(edit, x), training=True), stage="float"),
        "batch_norm_default: it normalises by the batch's own statistics; capture the model in evaluation mode",
    ),
    "computed weight": (
        lambda: built((1, 3, 6, 6), _computed_weight, stage="float"),
        "batch_norm_default: a weight of conv2d_default is computed (run fold-constants first), and it is read by an output",
    ),
    "features in the last dimension": (
        lambda: captured(Chain(nn.Linear(4, 4), _norm(3, 3)), 1, 3, 4),
        "batch_norm: linear has 3 dimensions, so its features are not the norm's channels, and it is read by an output",
    ),
    "no batch": (
        lambda: built((3, 6), lambda edit, x: _unbatched(edit, x), stage="float"),
        "batch_norm_default: conv1d_default has 2 dimensions, so its features are not the norm's channels, and it is read by an output",
    ),
    "half precision": (
        lambda: captured(Chain(nn.Linear(4, 3), _norm(2, 3)).bfloat16(), 1, 4, dtype=torch.bfloat16),
        "batch_norm: torch.bfloat16 constants cannot take its factors without loss; convert the model to float32",
    ),
}


def _unbatched(edit: Edit, x: fx.Node) -> fx.Node:
    """conv1d of one sample [3, length] into [3, 3], which the norm reads as 3 samples of 3 channels."""
    row = edit.call(_aten.expand.default, edit.call(_aten.slice.Tensor, x, 0, 0, 1), [3, 6])
    return _normed(edit, edit.call(_aten.conv1d.default, row, edit.add_tensor("w", torch.ones(3, 3, 4)), None))


@pytest.mark.parametrize("name", ALONE)
def test_what_cannot_be_folded_is_left_alone_with_the_reason(name: str) -> None:
    make, reason = ALONE[name]
    program, context = make(), Context()
    with untouched(program):
        assert FoldBatchNorm(rewrite=False).apply(program, context) is program
    (said,) = refusals(context)
    assert said.startswith(reason)


@pytest.mark.parametrize("name", ["no layer", "an input", "read twice", "computed weight", "features in the last dimension", "no batch"])
def test_what_cannot_be_folded_becomes_a_scale_and_a_shift_and_is_named(name: str) -> None:
    make, reason = ALONE[name]
    program, context = make(), Context()
    after = applied(FoldBatchNorm(), program, context)
    assert "aten.batch_norm" not in operators(after)
    assert operators(after).count("aten.mul.Tensor") == 1
    (said,) = refusals(context)
    assert said.startswith(reason)
    assert said.endswith("; it is a scale and a shift now")


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_takes_the_norm_after_it(groups: int) -> None:
    layer = nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=groups)
    program = captured(Chain(layer, _norm(4, 6)), 1, 4, 5, 5)
    assert operators(applied(FoldBatchNorm(), program, Context())) == ["aten.conv_transpose2d.input"]


@pytest.mark.parametrize(
    ("layer", "folds"),
    [
        (lambda: nn.Conv2d(3, 4, 3), True),
        (lambda: nn.Conv2d(3, 4, 3, bias=False), True),
        (lambda: nn.Conv2d(3, 6, 3, groups=3), True),
        (lambda: nn.Conv2d(3, 4, 3, padding=1), False),
    ],
)
def test_a_convolution_takes_the_norm_before_it_where_it_pads_nothing(layer: Callable[[], nn.Module], folds: bool) -> None:
    program = captured(Chain(nn.ReLU(), _norm(4, 3), layer()), 1, 3, 6, 6)
    context = Context()
    after = applied(FoldBatchNorm(), program, context)
    assert operators(after) == (
        ["aten.relu", "aten.conv2d"] if folds else ["aten.relu", "aten.mul.Tensor", "aten.add.Tensor", "aten.conv2d"]
    )
    assert (refusals(context) == []) is folds


def test_one_norm_after_another_both_fold() -> None:
    program, context = captured(Chain(nn.Conv2d(3, 3, 1), _norm(4, 3), _norm(4, 3, seed=4)), 1, 3, 6, 6), Context()
    after = applied(FoldBatchNorm(), program, context)
    assert operators(after) == ["aten.conv2d"]  # the second follows the convolution once the first is part of it
    assert refusals(context) == []


def test_a_program_without_norms_comes_back_itself() -> None:
    program, context = captured(nn.Conv2d(3, 3, 1), 1, 3, 6, 6), Context()
    assert FoldBatchNorm().apply(program, context) is program
    assert refusals(context) == []
