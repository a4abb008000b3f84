"""The scan passes what is integer between the borders and catches what is planted there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from fxpress_backends.contract import Target
from fxpress_backends.onnx import ONNX
from fxpress_backends.onnx.scan import scan
from fxpress_ir import Edit
from fxpress_ir.errors import BackendError
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from support import aten, built, fxp, residual_net
from torch import fx

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


@pytest.fixture
def path(tmp_path: Path, targets: Mapping[str, Target]) -> Path:
    ONNX.lower(residual_net(), targets["onnx:int"], tmp_path)
    return tmp_path / "model.onnx"


def planted(path: Path, after: str, *, reader: str, nodes: Callable[[str, str], list[NodeProto]]) -> ModelProto:
    """The model with `nodes` between the value that `after` gives and its reader."""
    model = onnx.load(path)
    source = next(node for node in model.graph.node if node.op_type == after)
    target = next(node for node in model.graph.node if node.op_type == reader and source.output[0] in node.input)
    target.input[list(target.input).index(source.output[0])] = "planted"
    place = list(model.graph.node).index(target)
    for offset, node in enumerate(nodes(source.output[0], "planted")):
        model.graph.node.insert(place + offset, node)
    onnx.save(model, path)
    return model


def test_an_f1_file_is_integer_and_says_so(path: Path) -> None:
    found = scan(path)
    assert found["border"] == 4  # the input, its scale, the output, its scale
    assert found["types"]["FLOAT"] == 4
    assert found["nodes"] > 50
    assert not set(found["types"]) & {"DOUBLE", "FLOAT16", "BFLOAT16"}


def test_an_f1_file_stores_no_float_but_border_scales(path: Path) -> None:
    model = onnx.load(path)
    floats = {tensor.name for tensor in model.graph.initializer if tensor.data_type in FLOATS}
    borders = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert floats == {node.input[1] for node in borders}
    assert len(borders) == 2


def test_a_planted_float_is_found(path: Path) -> None:
    def nodes(value: str, result: str) -> list[NodeProto]:
        cast = helper.make_node("Cast", [value], ["as_float"], to=TensorProto.FLOAT)
        grown = helper.make_node("Sqrt", ["as_float"], ["grown"])
        return [cast, grown, helper.make_node("Cast", ["grown"], [result], to=TensorProto.UINT8)]

    planted(path, "MaxPool", reader="ConvInteger", nodes=nodes)
    with pytest.raises(BackendError, match=r"value '(as_float|grown)' is FLOAT; the optimised graph is not integer"):
        scan(path)


def test_a_planted_division_is_found(path: Path) -> None:
    model = planted(
        path, "MaxPool", reader="ConvInteger", nodes=lambda value, result: [helper.make_node("Div", [value, "three"], [result])]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(3, np.uint8), "three"))
    onnx.save(model, path)
    with pytest.raises(BackendError, match="is a Div"):
        scan(path)


def test_a_quantised_value_in_the_middle_is_no_border(path: Path) -> None:
    def nodes(value: str, result: str) -> list[NodeProto]:
        down = helper.make_node("DequantizeLinear", [value, "planted_scale"], ["real"])
        return [down, helper.make_node("QuantizeLinear", ["real", "other_scale", "planted_zero"], [result])]

    model = planted(path, "MaxPool", reader="ConvInteger", nodes=nodes)
    for name, value in (("planted_scale", np.float32(0.5)), ("other_scale", np.float32(0.25)), ("planted_zero", np.uint8(3))):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    onnx.save(model, path)
    with pytest.raises(BackendError, match="is FLOAT"):
        scan(path)


def test_an_input_may_be_measured_as_well_as_quantised(tmp_path: Path, targets: Mapping[str, Target]) -> None:
    """The size that an expansion takes is read off the float input."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        q = edit.call(fxp.quantize.default, x, 0.1, -128, 127, torch.int8)
        row = edit.add_tensor("row", torch.arange(4, dtype=torch.int8)[None])
        rows = edit.call(aten.expand.default, row, [edit.call(aten.sym_size.int, x, 0), -1])
        return edit.call(fxp.dequantize.default, edit.call(fxp.concat.default, [q, rows], 1), 0.1)

    ONNX.lower(built((1, 4), body), targets["onnx:int"], tmp_path)
    found = scan(tmp_path / "model.onnx")
    assert found["border"] == 3  # both borders have one scale
