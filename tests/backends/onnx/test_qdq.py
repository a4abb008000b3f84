"""onnx:qdq: integers in the file, pairs that ONNX Runtime fuses, results close to the simulated program's."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import fxpress as fx
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from fxpress_backends.contract import Target
from fxpress_backends.onnx import ONNX
from fxpress_ir import Edit, Program
from fxpress_ir.ops import quantize_channels
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from support import aten, built, fxp, residual_net
from torch import fx as graphs

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from networks import network

STEP = 0.04


def convolution(qmin: int, qmax: int, bound: float) -> Program:
    """A convolution whose weights saturate in some channels, its input and output quantised."""
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(8, 4, 3, 3, generator=generator)
    scale = weight.abs().amax((1, 2, 3)).double() / torch.linspace(60, 160, 8, dtype=torch.float64)

    def body(edit: Edit, x: graphs.Node) -> graphs.Node:
        q = edit.call(fxp.fake_quantize.default, x, 0.03, -128, 127)
        codes = edit.call(
            fxp.fake_quantize_channels.default, edit.add_tensor("weight", weight), edit.add_tensor("scale", scale), 0, -127, 127
        )
        y = edit.call(aten.conv2d.default, q, codes, edit.add_tensor("bias", torch.linspace(-1, 1, 8)))
        return edit.call(fxp.fake_quantize.default, edit.call(aten.clamp.default, y, 0.0 if qmin == 0 else None, bound), STEP, qmin, qmax)

    return built((1, 4, 9, 9), body, stage="simulated")


def run(program: Program, target: Target, folder: Path, *inputs: torch.Tensor) -> tuple[NDArray[np.float32], ...]:
    ONNX.lower(program, target, folder)
    return ONNX.load(folder, {"target": target.name}, {}).run([x.numpy() for x in inputs])


@pytest.mark.parametrize(("qmin", "qmax", "bound"), [(-128, 127, 99.0), (0, 255, 99.0), (0, 255, 6.0), (-100, 90, 99.0)])
@pytest.mark.parametrize("batch", [1, 5])
def test_outputs_hardly_move(qmin: int, qmax: int, bound: float, batch: int, tmp_path: Path, targets: Mapping[str, Target]) -> None:
    program = convolution(qmin, qmax, bound)
    x = torch.randn(batch, 4, 9, 9, generator=torch.Generator().manual_seed(batch))
    (result,) = run(program, targets["onnx:qdq"], tmp_path, x)
    moved = np.abs(np.rint((result - program.run(x)[0].numpy()) / STEP))
    assert moved.max() <= 1
    assert (moved > 0).mean() < 0.02
    assert result.min() >= np.float32(qmin * STEP)
    assert result.max() <= np.float32(qmax * STEP)


def test_weights_are_the_programs_integers(tmp_path: Path, targets: Mapping[str, Target]) -> None:
    program = convolution(-128, 127, 99.0)
    ONNX.lower(program, targets["onnx:qdq"], tmp_path)
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    codes = quantize_channels(program.tensors["weight"], program.tensors["scale"], 0, -127, 127).numpy()
    assert np.abs(codes).max() == 127
    np.testing.assert_array_equal(tensors["weight.int8"], codes.astype(np.int8))
    (reader,) = (node for node in model.graph.node if "weight.int8" in node.input)
    assert (reader.op_type, {entry.name: entry.i for entry in reader.attribute}["axis"]) == ("DequantizeLinear", 0)
    np.testing.assert_array_equal(tensors[reader.input[1]], program.tensors["scale"].float().numpy())
    assert {tensor.dtype for tensor in tensors.values()} <= {np.dtype(kind) for kind in (np.float32, np.int8, np.uint8, np.int64)}
    assert "weight" not in tensors


def test_wider_values_are_rounded_among_floats(tmp_path: Path, targets: Mapping[str, Target]) -> None:
    program = built((1, 4), lambda edit, x: edit.call(fxp.fake_quantize.default, x, 0.001, -32768, 32767), stage="simulated")
    x = torch.linspace(-1, 1, 12).reshape(3, 4)
    (result,) = run(program, targets["onnx:qdq"], tmp_path, x)
    np.testing.assert_array_equal(result, program.run(x)[0].numpy())


def simulated(name: str) -> Program:
    generator = torch.Generator().manual_seed(7)
    batches = [(torch.randn(8, 3, 32, 32, generator=generator),) for _ in range(2)]
    program = fx.capture(network(name), (batches[0][0][:1],), dynamic_shapes={"x": {0: fx.Dim("batch")}})
    return fx.Pipeline.parse("fold-batch-norm, place-quantizers").run(program, calibration=batches).program


@pytest.mark.parametrize("name", ["inception", "squeeze-excitation"])
def test_a_network_agrees_and_is_fused(name: str, tmp_path: Path, targets: Mapping[str, Target]) -> None:
    program = simulated(name)
    x = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    (result,), expected = run(program, targets["onnx:qdq"], tmp_path, x), program.run(x)[0].numpy()
    # fused kernels round in integers, and a step that moves early moves others: 8-bit noise is near 30 dB
    assert 10 * np.log10((expected**2).sum() / ((expected - result) ** 2).sum()) > 30
    assert (result.argmax(1) == expected.argmax(1)).mean() >= 0.9
    optimised = tmp_path / "optimised.onnx"
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath, settings.log_severity_level = str(optimised), 3
    onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), settings, providers=["CPUExecutionProvider"])
    kinds = Counter(node.op_type for node in onnx.load(optimised).graph.node)
    convolutions = sum(node.target is aten.conv2d.default for node in program.graph.nodes)
    assert kinds["QLinearConv"] == convolutions


def test_the_same_bytes_with_weights_in_one_byte(tmp_path: Path, targets: Mapping[str, Target]) -> None:
    program, files = simulated("unet"), []
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        details = ONNX.lower(program, targets["onnx:qdq"], folder)
        (file,) = folder.iterdir()
        files.append(file.read_bytes())
    assert files[0] == files[1]
    assert details["opset"] == 20
    model = onnx.load_from_string(files[0])
    floats = sum(numpy_helper.to_array(tensor).size for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT)
    assert floats < 0.1 * sum(tensor.numel() for tensor in program.tensors.values())
    assert {"fxpress.target": "onnx:qdq"}.items() <= {entry.key: entry.value for entry in model.metadata_props}.items()


def test_an_integer_program_is_not_for_it(targets: Mapping[str, Target]) -> None:
    (refusal,) = ONNX.legalize(residual_net(), targets["onnx:qdq"])
    assert (refusal.reason, refusal.way_on) == ("its stage is integer", "onnx:qdq takes simulated programs")
    assert "never the reference" in targets["onnx:qdq"].description
