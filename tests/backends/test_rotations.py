"""Rotations of their own and noise folded into tables: the same bits on every target."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import fxpress as fx
import numpy as np
import pytest
import torch
from fxpress_ir import Program
from torch import Tensor, nn
from torch.nn import functional

TARGETS = ("reference", "onnx:int", "onnx:qlinear", "tvm:x86-64")


class Hidden(nn.Module):
    """A hidden layer of 24 channels, so that rotations come in blocks of 8; one is far wider than the others.

    The others lie near the least value of gelu: between two steps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 8)
        self.up.weight.data[3] *= 400
        self.up.weight.data /= 20
        self.up.bias.data = torch.full((24,), -0.75)
        self.down.weight.data.abs_()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(functional.gelu(self.up(x)))
        return y


@cache
def _program(text: str) -> Program:
    torch.manual_seed(0)
    program = fx.capture(Hidden().eval(), (torch.zeros(1, 5, 16),), dynamic_shapes={"x": {0: fx.Dim("batch")}})
    data = [(_input(8, seed),) for seed in range(4)]
    return fx.Pipeline.parse(f"{text}, quantize-dyadic{{integer_only=true, input_floor=0}}").run(program, calibration=data).program


def _input(batch: int, seed: int) -> Tensor:
    return torch.randn(batch, 5, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("target", TARGETS)
def test_a_rotation_is_the_same_everywhere(target: str, tmp_path: Path) -> None:
    program, x = _program("rotate"), _input(3, 9)
    assert any(tensor.shape == (8, 8) for tensor in program.tensors.values()), "nothing was rotated"
    artifact = fx.lower(program, target, out=tmp_path / "model")
    assert np.array_equal(artifact.run(x.numpy())[0], program.run(x)[0].numpy())


@pytest.mark.parametrize("target", TARGETS[:3])
def test_noise_is_the_same_everywhere(target: str, tmp_path: Path) -> None:
    program, x = _program("noisy-bias"), _input(3, 9)
    assert any(tensor.shape == (24, 256) for tensor in program.tensors.values()), "no table differs by channel"
    artifact = fx.lower(program, target, out=tmp_path / "model")
    assert np.array_equal(artifact.run(x.numpy())[0], program.run(x)[0].numpy())
