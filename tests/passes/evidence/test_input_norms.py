"""Sums of squares of what each weight multiplies, against windows laid out by hand."""

from __future__ import annotations

import pytest
import torch
from float_programs import Chain, captured
from fxpress_ir.errors import CalibrationError
from fxpress_passes.evidence import Calibration, Evidence
from fxpress_passes.evidence.input_norms import InputNorms
from torch import Tensor, nn
from torch.nn import functional


def _norms(module: nn.Module, x: Tensor) -> Tensor:
    program = captured(module, *x[:2].shape)
    (norm,) = Evidence(Calibration([x[:3], x[3:]])).input_norms(program).values()
    assert norm.samples == len(x)
    return norm.squares


def test_a_linear_layer_has_one_norm_a_column_over_all_rows() -> None:
    x = torch.randn(5, 4, 6)
    torch.testing.assert_close(_norms(nn.Linear(6, 3), x), x.double().square().sum((0, 1))[None])


@pytest.mark.parametrize(
    ("module", "padding"),
    [
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), (1, 1)),
        (nn.Conv2d(4, 6, (3, 1), padding="same"), (1, 0)),
        (nn.Conv2d(4, 6, 3, padding="valid", groups=2), (0, 0)),
    ],
    ids=["strided", "same", "groups"],
)
def test_a_convolution_has_one_norm_a_channel_and_place_of_the_window(module: nn.Conv2d, padding: tuple[int, int]) -> None:
    x = torch.randn(5, 4, 7, 7)
    stride, dilation = (int(module.stride[0]), int(module.stride[1])), (1, 1)
    window = (module.kernel_size[0], module.kernel_size[1])
    rows = functional.unfold(x.double(), window, dilation, padding, stride).square().sum((0, 2))
    torch.testing.assert_close(_norms(module, x), rows.reshape(module.groups, 4 // module.groups, *window))


def test_one_dimension_and_three_are_measured_too() -> None:
    x = torch.randn(5, 2, 6)
    torch.testing.assert_close(_norms(nn.Conv1d(2, 3, 1), x), x.double().square().sum((0, 2)).reshape(1, 2, 1))
    x = torch.randn(5, 2, 3, 3, 3)
    torch.testing.assert_close(_norms(nn.Conv3d(2, 3, 1), x), x.double().square().sum((0, 2, 3, 4)).reshape(1, 2, 1, 1, 1))


def test_a_weights_norms_repeat_by_group() -> None:
    x = torch.randn(5, 4, 2, 2)
    program = captured(nn.Conv2d(4, 6, 1, groups=2), 2, 4, 2, 2)
    (norm,) = Evidence(Calibration([x])).input_norms(program).values()
    root = (x.double().square().sum((0, 2, 3)) / 5).sqrt()
    found = norm.of_weight(6).reshape(6, 2)
    torch.testing.assert_close(found, torch.stack([root[:2]] * 3 + [root[2:]] * 3))


def test_an_infinite_input_is_named_and_nothing_of_the_batch_is_kept() -> None:
    class Logarithm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.log(x)

    observer = InputNorms(captured(Chain(nn.Linear(3, 3), Logarithm(), nn.Linear(3, 2)), 2, 3))
    with pytest.raises(CalibrationError, match=r"^linear_1: its input is NaN or infinite"):
        observer.observe((torch.randn(4, 3),))
    assert observer.found == {}
