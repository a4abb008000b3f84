"""onnx:float: the program's numbers, its names and its dynamic batch; the same bytes, no chatter, no machine in the file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from fxpress_backends.contract import Target
from fxpress_backends.onnx import ONNX
from fxpress_ir import Program, capture
from fxpress_ir.errors import BackendError
from torch import Tensor, nn


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        pooled = torch.relu(self.norm(self.conv(image))).mean((2, 3))
        return self.head(pooled).softmax(-1), pooled.view(pooled.shape[0] * 2, 4) + shift


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    batch = torch.export.Dim("batch")
    return capture(_Net().eval(), (torch.randn(2, 3, 8, 8), torch.randn(1, 4)), dynamic_shapes={"image": {0: batch}, "shift": None})


@pytest.mark.parametrize("batch", [1, 7])
def test_the_numbers_of_the_program(program: Program, batch: int, tmp_path: Path, targets: Mapping[str, Target]) -> None:
    details = ONNX.lower(program, targets["onnx:float"], tmp_path)
    image, shift = torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch)), torch.ones(1, 4)
    results = ONNX.load(tmp_path, {"target": "onnx:float"}, {}).run([image.numpy(), shift.numpy()])
    assert details["nodes"] > 5
    for result, expected in zip(results, program.run(image, shift), strict=True):
        # sums of 27 float32 products in another order, batch norm folded into the weights
        np.testing.assert_allclose(result, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_names_and_symbolic_sizes_are_the_programs(program: Program, tmp_path: Path, targets: Mapping[str, Target]) -> None:
    ONNX.lower(program, targets["onnx:float"], tmp_path)
    model = onnx.load(tmp_path / "model.onnx")

    def sizes(value: onnx.ValueInfoProto) -> list[str | int]:
        return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]

    assert {value.name: sizes(value) for value in model.graph.input} == {"image": ["batch", 3, 8, 8], "shift": [1, 4]}
    assert [value.name for value in model.graph.output] == [node.name for node in program.outputs()]
    assert [sizes(value) for value in model.graph.output] == [["batch", 5], ["2*batch", 4]]


def test_the_same_bytes_and_no_machine_in_them(program: Program, tmp_path: Path, targets: Mapping[str, Target]) -> None:
    files = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        ONNX.lower(program, targets["onnx:float"], folder)
        (file,) = folder.iterdir()
        files.append(file.read_bytes())
    assert files[0] == files[1]
    assert b".py" not in files[0]
    assert str(Path(torch.__file__).parents[2]).encode() not in files[0]


def test_the_exporter_is_silent(tmp_path: Path) -> None:
    code = f"""
import pathlib, torch
from fxpress_backends.onnx import ONNX
from fxpress_ir import capture
program = capture(torch.nn.Linear(4, 3), (torch.zeros(2, 4),), dynamic_shapes={{"input": {{0: torch.export.Dim("batch")}}}})
ONNX.lower(program, ONNX.targets()[0], pathlib.Path({str(tmp_path)!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path, targets: Mapping[str, Target]) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x)

    with pytest.raises(BackendError, match=r"torch\.onnx\.export failed"):
        ONNX.lower(capture(Odd(), (torch.zeros(2, 3),)), targets["onnx:float"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_outputs_name_is_taken_from_a_value_that_the_exporter_gave_it(tmp_path: Path, targets: Mapping[str, Target]) -> None:
    """A layer put in front moves the exporter's numbers on: its second layer has the name of the program's output."""
    torch.manual_seed(0)
    program = capture(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)).eval(), (torch.randn(2, 4),))
    edit = program.edit()
    first = next(node for node in edit.graph.nodes if node.name == "linear")
    with edit.graph.inserting_before(first):
        before = edit.call(torch.ops.aten.linear.default, *first.args, name="before")
    first.replace_input_with(first.args[0], before)  # type: ignore[arg-type]
    longer = edit.finish()
    assert longer.outputs()[0].name == "linear_1"
    ONNX.lower(longer, targets["onnx:float"], tmp_path)
    x = torch.randn(2, 4)
    (found,) = ONNX.load(tmp_path, {"target": "onnx:float"}, {}).run([x.numpy()])
    np.testing.assert_allclose(found, longer.run(x)[0].numpy(), rtol=1e-5, atol=1e-6)
    assert [output.name for output in onnx.load(tmp_path / "model.onnx").graph.output] == ["linear_1"]
