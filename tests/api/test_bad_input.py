"""Everything that a user can get wrong on the way from a model to an artifact: one line, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fxpress as fx
import pytest
import torch
from fxpress_ir.errors import (
    ArtifactError,
    BackendError,
    CalibrationError,
    CaptureError,
    InputError,
    PipelineError,
    RefusalError,
)
from support import residual_net
from torch import Tensor, nn

SHAPES = {"x": {0: fx.Dim("batch")}}
IMAGE = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


class Net(nn.Module):
    def __init__(self, activation: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.conv(x))


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


def captured(model: nn.Module) -> fx.Program:
    return fx.capture(model, (IMAGE,), dynamic_shapes=SHAPES)


def quantized(model: nn.Module, calibration: Any = ((IMAGE,),), options: str = "") -> fx.Program:
    return fx.Pipeline.parse(f"quantize-dyadic{options}").run(captured(model), calibration=calibration).program


def poisoned() -> nn.Module:
    model = Net()
    with torch.no_grad():
        model.conv.weight[1, 2, 0, 0] = float("nan")
    return model


CASES: dict[str, tuple[type[Exception], Callable[[], object], tuple[str, ...]]] = {
    "control flow": (CaptureError, lambda: captured(Branches()), ("test_bad_input.py:", "torch.where")),
    "nan weight": (CaptureError, lambda: captured(poisoned()), ("conv.weight", "NaN")),
    "an operator without an integer form": (
        RefusalError,
        lambda: quantized(Net(partial(torch.cumsum, dim=1)), options="{integer_only=true}"),
        ("aten.cumsum", "node cumsum"),
    ),
    "nan calibration": (CalibrationError, lambda: quantized(Net(), [(IMAGE * float("nan"),)]), ("batch 0", "'x'", "NaN")),
    "empty calibration": (CalibrationError, lambda: quantized(Net(), []), ("no batch",)),
    "no calibration": (CalibrationError, lambda: quantized(Net(), None), ("calibration",)),
    "calibration of a wrong shape": (CalibrationError, lambda: quantized(Net(), [(IMAGE[:, :2],)]), ("dimension 1 is 2, expected 3",)),
    "wrong shape": (InputError, lambda: captured(Net()).run(IMAGE[:, :, :7]), ("'x'", "dimension 2 is 7, expected 8")),
    "wrong dtype": (InputError, lambda: captured(Net()).run(IMAGE.double()), ("torch.float64", "expected torch.float32")),
    "nan into integers": (InputError, lambda: residual_net().run(IMAGE * float("inf")), ("NaN or infinity",)),
    "unknown pass": (PipelineError, lambda: fx.Pipeline.parse("fold-batchnorm"), ("fold-batchnorm", "fold-batch-norm")),
    "unknown option": (PipelineError, lambda: fx.Pipeline.parse("quantize-dyadic{weight_bit=8}"), ("weight_bit", "weight_bits")),
    "bad value": (PipelineError, lambda: fx.Pipeline.parse("quantize-dyadic{weight_bits=9}"), ("weight_bits=9", "8, 7, 6, 5, 4, 3, 2")),
    "wrong order": (PipelineError, lambda: fx.Pipeline.parse("place-quantizers, fold-batch-norm"), ("fold-batch-norm first",)),
}


@pytest.mark.parametrize("case", CASES)
def test_is_one_line_that_says_what_where_and_the_way_on(case: str) -> None:
    kind, cause, words = CASES[case]
    with pytest.raises(kind) as caught:
        cause()
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line
    assert caught.value.way_on  # type: ignore[attr-defined]


def test_an_unknown_target_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"onnx:qlinera.*onnx:qlinear"):
        fx.lower(residual_net(), "onnx:qlinera", out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_float_program_is_refused_where_integers_are_wanted(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="float"):
        fx.lower(captured(Net()), "onnx:int", out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactError) as caught:
        fx.lower(residual_net(), "reference", out=tmp_path / "file" / "out")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_tampered_artifact_is_refused(tmp_path: Path) -> None:
    artifact = fx.lower(residual_net(), "reference", out=tmp_path / "net")
    victim = min(path for path in artifact.folder.iterdir() if path.name != "manifest.json")
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    with pytest.raises(ArtifactError, match=f"{victim.name}.*hash mismatch|hash mismatch.*{victim.name}"):
        fx.load(artifact.folder)
