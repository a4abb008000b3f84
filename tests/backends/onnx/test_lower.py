"""Files: the same program gives the same bytes, facts in the metadata, nothing left behind, I/O as the program's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from fxpress_backends.contract import Target
from fxpress_backends.onnx import ONNX, lower, run
from fxpress_backends.onnx.integer import F1
from fxpress_ir import Edit, Program, capture
from fxpress_ir.errors import BackendError
from support import built, fxp, moving_net, residual_net
from torch import Tensor, fx, nn

INTEGER = ("onnx:int", "onnx:qlinear")


@pytest.mark.parametrize("name", INTEGER)
@pytest.mark.parametrize("net", [residual_net, moving_net])
def test_lowering_twice_gives_the_same_bytes(name: str, net: Callable[[], Program], tmp_path: Path, targets: Mapping[str, Target]) -> None:
    files = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        ONNX.lower(net(), targets[name], folder)
        (file,) = folder.iterdir()
        files.append(file.read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("name", INTEGER)
def test_a_file_is_valid_and_says_what_it_is(name: str, tmp_path: Path, targets: Mapping[str, Target]) -> None:
    program = residual_net()
    details = ONNX.lower(program, targets[name], tmp_path)
    json.dumps(details)
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert model.doc_string.startswith("F1" if name == "onnx:int" else "F2")
    assert metadata["fxpress.program"] == program.hash
    assert metadata["fxpress.target"] == name
    assert json.loads(metadata["fxpress.scales"]) == {"quantize_default": 0.03, "dequantize_default": 0.001}
    assert [value.name for value in model.graph.input] == ["x"]
    assert [value.name for value in model.graph.output] == ["dequantize_default"]
    assert [d.dim_param or d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim] == ["batch", 10]
    assert model.opset_import[0].version == details["opset"] == 21
    assert {node.domain for node in model.graph.node} == {""}
    assert not any(tensor.float_data or tensor.int32_data for tensor in model.graph.initializer)
    assert str(Path.home()).encode() not in (tmp_path / "model.onnx").read_bytes()


def test_what_fails_the_scan_is_not_left_behind(tmp_path: Path, targets: Mapping[str, Target], monkeypatch: pytest.MonkeyPatch) -> None:
    def found(path: Path, islands: Collection[str]) -> None:
        raise BackendError(f"{path.name} holds a float")

    monkeypatch.setattr(lower, "scan", found)
    with pytest.raises(BackendError, match=r"model.onnx holds a float"):
        ONNX.lower(residual_net(), targets["onnx:int"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_weights_beyond_the_limit_go_beside_the_model(tmp_path: Path) -> None:
    program = residual_net()
    written = lower.write(lower.emit(program, F1), tmp_path, limit=100)
    assert [path.name for path in written] == ["model.onnx", "model.onnx.data"]
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    (result,) = run.load(tmp_path, "onnx:int", {}).run([x.numpy()])
    np.testing.assert_array_equal(result, program.run(x)[0].numpy())


class _TwoInputs(nn.Module):
    def forward(self, first: Tensor, second: Tensor, third: Tensor) -> tuple[Tensor, ...]:
        return first + second, third, first + second, first


def test_inputs_and_outputs_in_the_programs_order(same_bits: Callable[..., None]) -> None:
    """Three inputs of three types; one output twice, two inputs handed on."""
    batch = torch.export.Dim("batch")
    example = (torch.zeros(2, 3, dtype=torch.int8), torch.zeros(2, 3, dtype=torch.int8), torch.zeros(2))
    program = capture(_TwoInputs(), example, dynamic_shapes={name: {0: batch} for name in ("first", "second", "third")})
    edit = program.edit()
    old = edit.here(program.outputs()[0])
    with edit.graph.inserting_before(old):
        first, second = (edit.here(node) for node in program.placeholders()[:2])
        new = edit.call(fxp.add.default, first, second, 1, 2, 2, 0, 255, torch.uint8)
    edit.replace(old, new)
    other = edit.here(program.outputs()[2])
    if other is not old:
        edit.replace(other, new)
    whole = torch.arange(15, dtype=torch.int8).reshape(5, 3)
    same_bits(edit.finish(stage="integer"), whole, 60 - whole, torch.arange(5) / 7)


def test_targets_are_cheap() -> None:
    code = """
import sys, fxpress_backends.onnx
fxpress_backends.onnx.ONNX.targets()
print(sorted({"onnx", "onnx_ir", "onnxruntime", "onnxscript", "torch.onnx._internal.exporter._core"} & sys.modules.keys()))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_equal_constants_are_stored_once() -> None:
    model = lower.emit(residual_net(), F1)
    tensors = [value.const_value for value in model.graph.initializers.values()]
    seen = [(tensor.dtype, tuple(tensor.shape), tensor.tobytes()) for tensor in tensors if tensor is not None]
    assert len(seen) == len(set(seen))
    assert all(isinstance(tensor, ir.Tensor) for tensor in tensors)


def test_node_metadata_holds_scales_and_shifts(tmp_path: Path, targets: Mapping[str, Target]) -> None:
    def body(edit: Edit, x: fx.Node) -> fx.Node:
        q = edit.call(fxp.quantize.default, x, 0.25, -128, 127, torch.int8)
        y = edit.call(fxp.requantize.default, q, edit.add_tensor("b", torch.tensor([5], dtype=torch.int32)), 4, 0, 255, 1, torch.uint8)
        return edit.call(fxp.dequantize.default, y, 0.5)

    ONNX.lower(built((1, 4), body), targets["onnx:qlinear"], tmp_path)
    model = onnx.load(tmp_path / "model.onnx")
    facts = [{entry.key: entry.value for entry in node.metadata_props} for node in model.graph.node]
    assert {"fxpress.scale": "0.25", "fxpress.range": "[-128, 127]"} in facts
    assert {"fxpress.shift": "4"} in facts
    assert {"fxpress.scale": "0.5"} in facts
