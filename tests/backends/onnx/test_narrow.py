"""4-bit and 2-bit weights: the bits stay, the file shrinks, and ONNX Runtime runs the kernels of 8-bit weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from fxpress_backends.contract import Target
from fxpress_backends.onnx import ONNX, run
from fxpress_backends.onnx.narrow import width
from fxpress_ir import Edit, Program
from onnx import TensorProto
from onnx_cases import Check, extreme
from support import aten, built, conv, fxp, requantize
from torch import fx

STORED = {8: set[int](), 4: {TensorProto.INT4, TensorProto.UINT4}, 2: {TensorProto.INT2, TensorProto.UINT2}}
INTEGER = ("onnx:int", "onnx:qlinear")


def net(low: int, high: int) -> Program:
    """A convolution, one with groups and a product, their weights in [low, high]."""
    generator = torch.Generator().manual_seed(2)

    def weight(*shape: int) -> torch.Tensor:
        values = torch.randint(low, high + 1, shape, generator=generator, dtype=torch.int8)
        values.view(-1)[0], values.view(-1)[1] = low, high
        return values

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        b = torch.full((1,), 20000 // (high * 8), dtype=torch.int32)
        first = conv(edit, x, weight(32, 16, 3, 3), None, b, 15, relu=True, name="first")
        acc = edit.call(fxp.conv2d.default, first, edit.add_tensor("grouped", weight(32, 16, 3, 3)), None, [1, 1], [1] * 4, [1, 1], 2)
        second = requantize(edit, acc, b, 16, relu=False, axis=1, name="second")
        flat = edit.call(aten.flatten.using_ints, second, 1)
        acc = edit.call(fxp.linear.default, flat, edit.add_tensor("head", weight(10, 32 * 16)), None)
        return requantize(edit, acc, b, 16, relu=False, axis=1, name="third")

    return built((1, 16, 4, 4), body, dtype=torch.int8)


NETS = {8: net(-9, 8), 4: net(-8, 7), 2: net(-2, 1)}


def lowered(bits: int, target: Target, folder: Path) -> onnx.ModelProto:
    (folder / str(bits)).mkdir()
    ONNX.lower(NETS[bits], target, folder / str(bits))
    return onnx.load(folder / str(bits) / "model.onnx")


@pytest.mark.parametrize("bits", NETS)
def test_the_bits_of_the_program(same_bits: Check, bits: int) -> None:
    for batch in (1, 3):
        same_bits(NETS[bits], extreme(torch.Generator().manual_seed(batch), (batch, 16, 4, 4), torch.int8))


@pytest.mark.parametrize("name", INTEGER)
def test_the_file_shrinks(name: str, tmp_path: Path, targets: Mapping[str, Target]) -> None:
    models = {bits: lowered(bits, targets[name], tmp_path) for bits in NETS}
    weights = 32 * 16 * 9 * 2 + 10 * 32 * 16
    sizes = {bits: (tmp_path / str(bits) / "model.onnx").stat().st_size for bits in NETS}
    for bits, model in models.items():
        onnx.checker.check_model(model, full_check=True)
        assert {tensor.data_type for tensor in model.graph.initializer} & set().union(*STORED.values()) <= STORED[bits]
        assert (model.opset_import[0].version, model.ir_version) == ((25, 13) if bits == 2 else (21, 10))
        # three casts and their names, 200 bytes each; clamps that interval arithmetic leaves out or not
        assert abs(sizes[bits] - (sizes[8] - weights * (8 - bits) // 8)) <= 1000


@pytest.mark.parametrize("bits", [4, 2])
@pytest.mark.parametrize("entries", [{}, run.PRECISE], ids=["vnni", "older"])
def test_the_kernels_of_8_bit_weights_run(bits: int, entries: Mapping[str, str], tmp_path: Path, targets: Mapping[str, Target]) -> None:
    lowered(bits, targets["onnx:qlinear"], tmp_path)
    optimised = tmp_path / "optimised.onnx"
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath, settings.log_severity_level = str(optimised), 3
    for key, value in entries.items():
        settings.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(str(tmp_path / str(bits) / "model.onnx"), settings, providers=["CPUExecutionProvider"])
    x = extreme(torch.Generator().manual_seed(9), (3, 16, 4, 4), torch.int8)
    np.testing.assert_array_equal(session.run(None, {"x": x.numpy()})[0], NETS[bits].run(x)[0].numpy())
    graph = onnx.load(optimised).graph
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["QLinearConv"] == 3
    assert kinds["Cast"] == 2  # the borders' own
    constants = {tensor.name for tensor in graph.initializer}
    assert all(node.input[3] in constants for node in graph.node if node.op_type == "QLinearConv")


@pytest.mark.parametrize(
    ("low", "high", "size", "bits"),
    [(-8, 7, 2048, 4), (-2, 1, 2048, 2), (-8, 8, 2048, 8), (-9, 7, 2048, 8), (-3, 1, 2048, 4), (-2, 2, 2048, 4), (-1, 1, 99, 8)],
)
def test_the_width_of_each_weight_is_its_own(low: int, high: int, size: int, bits: int) -> None:
    weight = np.zeros(size, np.int8)
    weight[0], weight[-1] = low, high
    assert width(weight) == bits
