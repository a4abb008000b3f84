"""Mixed programs: integers as ever, islands by torch's exporter among them, and a scan that knows the one from the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import fxpress as fx
import numpy as np
import onnx
import pytest
import torch
from fxpress_backends.contract import Target
from fxpress_backends.onnx import ONNX
from fxpress_backends.onnx.scan import scan
from fxpress_ir import Edit, Program, verify
from fxpress_ir.errors import BackendError
from mixed import Body, hardly_differs, integer_conv, mixed, quantized, real
from onnx import ModelProto, TensorProto, helper
from support import aten, conv, fxp
from torch import Tensor, nn
from torch import fx as graphs

INTEGER = ("onnx:int", "onnx:qlinear")


def convolution(edit: Edit, x: graphs.Node) -> graphs.Node:
    """Its layout is changed, its GELU fused."""
    weight = edit.add_tensor("island.weight", torch.randn(16, 4, 3, 3, generator=torch.Generator().manual_seed(1)) / 6)
    y = edit.call(aten.conv2d.default, real(edit, integer_conv(edit, quantized(edit, x), "one")), weight, None, [1, 1], [1, 1])
    y = edit.call(aten.slice.Tensor, edit.call(aten.gelu.default, y), 1, 0, 4)
    return real(edit, integer_conv(edit, quantized(edit, y), "second"))


def division(edit: Edit, x: graphs.Node) -> graphs.Node:
    """What the scan forbids among integers, and a result that leaves without quantisation."""
    y = real(edit, integer_conv(edit, quantized(edit, x), "one"))
    mean = edit.call(aten.mean.dim, y, [1, 2], True)
    return edit.call(
        aten.div.Tensor, edit.call(aten.sub.Tensor, y, mean), edit.call(aten.add.Scalar, edit.call(aten.abs.default, mean), 1.0)
    )


def around(edit: Edit, x: graphs.Node) -> graphs.Node:
    """An island reads another directly and through integers."""
    first = edit.call(aten.sin.default, x)
    through = real(edit, integer_conv(edit, quantized(edit, first), "through"))
    return edit.call(aten.mul.Tensor, first, edit.call(aten.softmax.int, through, -1))


def sizes(edit: Edit, x: graphs.Node) -> graphs.Node:
    """A view by symbolic sizes that integers gave."""
    q = integer_conv(edit, quantized(edit, x), "one")
    batch, height = (edit.call(aten.sym_size.int, q, dimension) for dimension in (0, 2))
    rows = edit.call(aten.permute.default, real(edit, q), [0, 2, 1, 3])
    flat = edit.call(aten.cumsum.default, edit.call(aten.reshape.default, rows, [batch, height, 24]), 1)
    return edit.call(aten.reshape.default, flat, [batch, height, 4, 6])


def choice(edit: Edit, x: graphs.Node) -> graphs.Node:
    """An island whose result is no float."""
    y = real(edit, integer_conv(edit, quantized(edit, x), "one"))
    return edit.call(aten.argmax.default, edit.call(aten.sigmoid.default, y), 1)


BODIES: dict[str, Body] = {body.__name__: body for body in (convolution, division, around, sizes, choice)}


def run(program: Program, target: Target, folder: Path, *inputs: Tensor) -> tuple[np.ndarray, ...]:
    verify(program)
    assert ONNX.legalize(program, target) == ()
    ONNX.lower(program, target, folder)
    onnx.checker.check_model(onnx.load(folder / "model.onnx"), full_check=True)
    results: tuple[np.ndarray, ...] = ONNX.load(folder, {"target": target.name}, {"threads": 1}).run([x.numpy() for x in inputs])
    return results


@pytest.mark.parametrize("name", INTEGER)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("batch", [1, 5])
def test_islands(name: str, body: Body, batch: int, tmp_path: Path, targets: Mapping[str, Target]) -> None:
    program = mixed(body, axis2=torch.export.Dim("height", max=64)) if body is sizes else mixed(body)
    x = torch.randn(batch, 4, 9 if body is sizes else 6, 6, generator=torch.Generator().manual_seed(batch)) * 3
    (result,) = run(program, targets[name], tmp_path, x)
    hardly_differs(result, program.run(x)[0].numpy())


def test_an_input_of_another_type_enters_an_island(tmp_path: Path, targets: Mapping[str, Target]) -> None:
    generator = torch.Generator().manual_seed(3)

    def body(edit: Edit, x: graphs.Node) -> graphs.Node:
        rows = edit.call(aten.embedding.default, edit.add_tensor("rows", torch.randn(9, 8, generator=generator)), x)
        weight = edit.add_tensor("weight", torch.randint(-127, 128, (6, 8), generator=generator, dtype=torch.int8))
        acc = edit.call(fxp.linear.default, quantized(edit, rows), weight, None)
        b = edit.add_tensor("b", torch.tensor([300], dtype=torch.int32))
        return real(edit, edit.call(fxp.requantize.default, acc, b, 16, -128, 127, -1, torch.int8))

    program = mixed(body, (5,), dtype=torch.int64)
    ids = torch.randint(0, 9, (3, 5), generator=generator)
    for name in INTEGER:
        (result,) = run(program, targets[name], tmp_path, ids)
        np.testing.assert_array_equal(result, program.run(ids)[0].numpy())


def test_an_island_that_changes_nothing(tmp_path: Path, targets: Mapping[str, Target]) -> None:
    program = mixed(lambda edit, x: edit.call(aten.clone.default, real(edit, integer_conv(edit, quantized(edit, x), "one"))))
    x = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    for name in INTEGER:
        (result,) = run(program, targets[name], tmp_path, x)
        np.testing.assert_array_equal(result, program.run(x)[0].numpy())


class _Net(nn.Module):
    """Convolutions quantise; group norm, softmax and a cumulative sum do not."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Linear(8, 5)
        self.norm = nn.GroupNorm(2, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.enter(x))
        weights = self.leave(x).flatten(2).softmax(-1).view(x.shape)
        x = torch.relu(self.leave(self.norm(x) * weights + x)).mean((2, 3))
        return self.head(x), self.head(x).cumsum(1)


@pytest.mark.parametrize("name", INTEGER)
def test_a_network_with_islands(name: str, tmp_path: Path, targets: Mapping[str, Target]) -> None:
    generator = torch.Generator().manual_seed(7)
    torch.manual_seed(7)
    batches = [(torch.randn(4, 3, 8, 8, generator=generator),) for _ in range(2)]
    program = fx.capture(_Net().eval(), (batches[0][0][:1],), dynamic_shapes={"x": {0: fx.Dim("batch")}})
    program = fx.Pipeline.parse("quantize-dyadic").run(program, calibration=batches).program
    assert len(program.islands) == 2
    for batch in (1, 3):
        x = torch.randn(batch, 3, 8, 8, generator=generator)
        for result, expected in zip(run(program, targets[name], tmp_path, x), program.run(x), strict=True):
            hardly_differs(result, expected.numpy())


@pytest.mark.parametrize("name", INTEGER)
def test_the_same_bytes(name: str, tmp_path: Path, targets: Mapping[str, Target]) -> None:
    files = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        ONNX.lower(mixed(convolution), targets[name], folder)
        files.append((folder / "model.onnx").read_bytes())
    assert files[0] == files[1]
    assert b".py" not in files[0]


def test_two_bit_weights_beside_islands_are_stored_in_four(tmp_path: Path, targets: Mapping[str, Target]) -> None:
    def body(edit: Edit, x: graphs.Node) -> graphs.Node:
        weight = torch.randint(-1, 2, (32, 4, 3, 3), generator=torch.Generator().manual_seed(1), dtype=torch.int8)
        b = torch.tensor([4000], dtype=torch.int32)
        return edit.call(aten.sin.default, real(edit, conv(edit, quantized(edit, x), weight, None, b, 16, relu=False)))

    program = mixed(body)
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    hardly_differs(run(program, targets["onnx:qlinear"], tmp_path, x)[0], program.run(x)[0].numpy())
    kinds = {tensor.data_type for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert TensorProto.INT4 in kinds
    assert TensorProto.INT2 not in kinds


def planted(model: ModelProto) -> None:
    """A float square root in front of the first convolution of integers."""
    place = next(index for index, node in enumerate(model.graph.node) if node.op_type == "ConvInteger")
    target = model.graph.node[place]
    cast = helper.make_node("Cast", [target.input[0]], ["as_float"], to=TensorProto.FLOAT)
    root = helper.make_node("Sqrt", ["as_float"], ["root"])
    back = helper.make_node("Cast", ["root"], ["back"], to=TensorProto.UINT8)
    target.input[0] = "back"
    for offset, node in enumerate((cast, root, back)):
        model.graph.node.insert(place + offset, node)


@pytest.mark.parametrize("body", [convolution, division, around])
def test_a_float_outside_the_islands_is_found(body: Body, tmp_path: Path, targets: Mapping[str, Target]) -> None:
    program, path = mixed(body), tmp_path / "model.onnx"
    details = ONNX.lower(program, targets["onnx:int"], tmp_path)
    assert details["scan"]["border"] > 4
    with pytest.raises(BackendError, match=r"is (FLOAT|a ReduceMean);"):
        scan(path)
    model = onnx.load(path)
    planted(model)
    onnx.save(model, path)
    with pytest.raises(BackendError, match=r"value '(as_float|root)' is FLOAT"):
        scan(path, program.islands)


@pytest.mark.parametrize("name", INTEGER)
def test_what_islands_cannot_read(name: str, targets: Mapping[str, Target]) -> None:
    stored = mixed(lambda edit, x: edit.call(aten.argmax.default, quantized(edit, x), 1))
    (refusal,) = ONNX.legalize(stored, targets[name])
    assert refusal.reason == "a float island reads it as s8"
    short = mixed(lambda edit, x: real(edit, quantized(edit, edit.call(aten._to_copy.default, x))), dtype=torch.bfloat16)
    (refusal,) = ONNX.legalize(short, targets[name])
    assert refusal.reason == "torch.bfloat16 has no storage type"


def test_what_torch_cannot_translate_is_named_and_nothing_is_left(tmp_path: Path, targets: Mapping[str, Target]) -> None:
    program = mixed(lambda edit, x: edit.call(aten.special_bessel_j0.default, real(edit, quantized(edit, x))))
    with pytest.raises(BackendError, match=r"torch\.onnx\.export failed"):
        ONNX.lower(program, targets["onnx:int"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_is_1_in_the_example_is_refused(tmp_path: Path, targets: Mapping[str, Target]) -> None:
    """torch.export would take it for a constant."""

    def body(edit: Edit, x: graphs.Node) -> graphs.Node:
        pooled = edit.call(fxp.max_pool2d.default, quantized(edit, x), [2, 2], [2, 2], [0] * 4, [1, 1])
        return edit.call(aten.sin.default, real(edit, pooled))

    program = mixed(body, (4, 2, 6), axis2=torch.export.Dim("height", min=2, max=64))
    with pytest.raises(BackendError, match=r"torch\.export keeps only the example's size"):
        ONNX.lower(program, targets["onnx:int"], tmp_path)
