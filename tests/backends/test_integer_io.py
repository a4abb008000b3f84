"""A program that takes and gives integers: on every target the bits of the one with float borders, up to the border."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import fxpress as fx
import numpy as np
import onnx
import pytest
import torch
from fxpress.conformance import check
from fxpress_ir import Program, to_reals, to_steps
from fxpress_ir.errors import InputError
from fxpress_ir.ops import arguments
from torch import Tensor, nn
from torch.nn import functional

TARGETS = ("reference", "onnx:int", "onnx:qlinear", "tvm:x86-64", "tvm:native")


class Ends(nn.Module):
    """Inputs of both signs and of one, an image of three channels; outputs of 8 bits, of 16, an input, and one twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3), nn.Linear(8 * 9, 5)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        z = functional.relu(self.stem(x)) + y
        w = functional.relu(self.body(z))
        logits = self.head(functional.max_pool2d(w, 2).flatten(1))
        return z, logits, x, logits


def _inputs(batch: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    return scale * torch.randn(batch, 3, 8, 8, generator=generator), scale * torch.rand(batch, 8, 8, 8, generator=generator)


@cache
def program(io: str, bits: int) -> Program:
    torch.manual_seed(0)
    batch = fx.Dim("batch")
    captured = fx.capture(Ends().eval(), _inputs(1), dynamic_shapes={"x": {0: batch}, "y": {0: batch}})
    return fx.Pipeline.parse(f"quantize-dyadic{{io={io}, activation_bits={bits}}}").run(captured, calibration=[_inputs(16)]).program


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("target", TARGETS)
def test_the_bits_up_to_the_border(target: str, bits: int, tmp_path: Path) -> None:
    bordered, bare = program("float", bits), program("integer", bits)
    artifact = fx.lower(bare, target, out=tmp_path / "net")
    for values in (_inputs(1), _inputs(3, 2.0)):
        steps = to_steps(artifact.inputs, values)
        found = artifact.run(*steps)
        for array, own, real, expected in zip(
            found, bare.run(*steps), to_reals(artifact.output_scales, found), bordered.run(*values), strict=True
        ):
            assert array.dtype == own.numpy().dtype
            assert np.array_equal(array, own.numpy())
            assert torch.equal(real, expected)
    assert all(finding.held for finding in check(tmp_path / "net"))


class Inside(nn.Module):
    """A float island between two layers, which the input enters too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last((functional.relu(self.first(x)) + x.cumsum(1)).cumsum(1))
        return result


@pytest.mark.parametrize("target", ["onnx:int", "onnx:qlinear"])
def test_a_float_island_inside(target: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
    captured = fx.capture(Inside().eval(), (x,), dynamic_shapes={"x": {0: fx.Dim("batch")}})
    mixed = fx.Pipeline.parse("quantize-dyadic{io=integer}").run(captured, calibration=[(x,)]).program
    assert (mixed.stage, len(mixed.islands), mixed.inputs[0].dtype) == ("mixed", 2, torch.int8)
    artifact = fx.lower(mixed, target, out=tmp_path / "net")
    steps = to_steps(artifact.inputs, (x[:3],))
    (found,), (expected,) = artifact.run(*steps), mixed.run(*steps)
    assert found.dtype == expected.numpy().dtype
    assert np.array_equal(found, expected.numpy())


def test_the_ends_are_integers_of_the_types_that_quantisation_chose() -> None:
    bare = program("integer", 8)
    assert [spec.dtype for spec in bare.inputs] == [torch.int8, torch.uint8]
    assert [node.meta["val"].dtype for node in bare.outputs()] == [torch.uint8, torch.int16, torch.int8, torch.int16]
    operators = {str(node.target) for node in bare.graph.nodes if node.op == "call_function"}
    assert not operators & {"fxp.quantize.default", "fxp.dequantize.default"}


@pytest.mark.parametrize("target", ["reference", "onnx:qlinear"])
def test_the_manifest_says_what_a_step_is(target: str, tmp_path: Path) -> None:
    bordered, bare = program("float", 8), program("integer", 8)
    artifact = fx.lower(bare, target, out=tmp_path / "net")
    taken = {arguments(node)["x"].name: arguments(node)["scale"] for node in bordered.graph.nodes if "quantize" in str(node.target)[:12]}
    given = [arguments(node)["scale"] for node in bordered.outputs()]
    assert {spec.name: spec.scale for spec in artifact.inputs} == {name: taken[name] for name in ("x", "y")}
    assert artifact.output_scales == bare.output_scales == tuple(given)
    assert [output["scale"] for output in artifact.manifest["outputs"]] == given
    assert f"uint8[batch, 8, 8, 8] in steps of {given[0]!r}" in str(artifact)
    plain = fx.lower(bordered, target, out=tmp_path / "plain").manifest
    assert not any("scale" in end for end in (*plain["inputs"], *plain["outputs"]))


def test_an_onnx_file_says_what_a_step_is(tmp_path: Path) -> None:
    bare = program("integer", 8)
    fx.lower(bare, "onnx:int", out=tmp_path / "net")
    model = onnx.load(tmp_path / "net" / "model.onnx")
    scales = json.loads({entry.key: entry.value for entry in model.metadata_props}["fxpress.scales"])
    assert scales["x"] == bare.inputs[0].scale
    assert scales[model.graph.output[0].name] == bare.output_scales[0]
    assert [value.type.tensor_type.elem_type for value in model.graph.input] == [onnx.TensorProto.INT8, onnx.TensorProto.UINT8]


def test_an_artifact_takes_no_floats(tmp_path: Path) -> None:
    artifact = fx.lower(program("integer", 8), "reference", out=tmp_path / "net")
    with pytest.raises(InputError, match=r"input 'x': dtype is torch.float32, expected torch.int8; .* in steps of 0\.\d+"):
        artifact.run(*_inputs(1))
