"""Networks whose averages have windows that differ: near the float network, and the same bits on every target."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import fxpress as fx
import numpy as np
import pytest
import torch
from fxpress_ir import Program
from fxpress_passes.contract import difference
from torch import Tensor, nn
from torch.nn import functional

TARGETS = ("reference", "onnx:int", "onnx:qlinear", "tvm:x86-64")


def _layer(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Branches(nn.Module):
    """A branch pooled over the image's own pixels, as in Inception-v4, then an average to 3x3 whose windows overlap."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = _layer(3, 8), _layer(8, 6, 1), _layer(8, 10)
        self.head = nn.Linear(16 * 9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([self.left(functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)), self.right(x)], 1)
        result: Tensor = self.head(functional.adaptive_avg_pool2d(x, 3).flatten(1))
        return result


class Shortcut(nn.Module):
    """A shortcut averaged with ceil_mode, as in ResNet-D, and windows cut off at two sides; signed values throughout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.down(x) + functional.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)
        x = functional.avg_pool2d(x, (5, 4), (4, 3), (2, 1), ceil_mode=True)
        result: Tensor = self.head(functional.adaptive_avg_pool2d(x, 2).flatten(1))
        return result


NETWORKS = {"branches": Branches, "shortcut": Shortcut}
IMAGE = (3, 14, 11)


def _images(batch: int) -> Tensor:
    return torch.randn(batch, *IMAGE, generator=torch.Generator().manual_seed(batch))


SEEN = _images(32)
"""Calibration data: over it nothing saturates."""


@cache
def programs(name: str) -> tuple[Program, Program]:
    """The network in floats and in integers."""
    torch.manual_seed(0)
    program = fx.capture(NETWORKS[name]().eval(), (SEEN[:1],), dynamic_shapes={"x": {0: fx.Dim("batch")}})
    pipeline = fx.Pipeline.parse("fold-batch-norm, quantize-dyadic{integer_only=true}")
    return program, pipeline.run(program, calibration=[(SEEN,)]).program


@pytest.mark.parametrize(("name", "sums"), [("branches", 9 + 9), ("shortcut", 2 + 4 + 1)])
def test_is_near_the_float_network(name: str, sums: int) -> None:
    before, after = programs(name)
    assert len(after.graph.find_nodes(op="call_function", target=torch.ops.fxp.sum_pool2d.default)) == sums
    assert difference(before.run(SEEN), after.run(SEEN)).sqnr > 35


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("target", TARGETS)
def test_the_bits_of_the_program(name: str, target: str, tmp_path: Path) -> None:
    _, program = programs(name)
    artifact = fx.lower(program, target, out=tmp_path / "net")
    for images in (_images(1), 2 * _images(3)):
        (found,), (expected,) = artifact.run(images.numpy()), program.run(images)
        assert np.array_equal(found, expected.numpy())
