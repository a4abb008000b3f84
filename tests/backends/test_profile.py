"""Which kernels compute which nodes, and when two do the same work; times are real, and nothing depends on how long they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fxpress_backends.artifact import lower
from fxpress_backends.contract import Call
from fxpress_backends.onnx import ONNX
from fxpress_backends.profile import RUNTIME, KernelTime, profile, settled, signatures
from fxpress_backends.registry import find
from fxpress_backends.work import sizes_at
from fxpress_ir import Edit, Program, capture
from fxpress_ir.analysis.cost import macs
from fxpress_ir.errors import BackendError
from mixed import mixed, quantized
from support import attending_net, built, conv, fxp, residual_net
from torch import fx, nn

SIZES = {"batch": 2}


def layers(program: Program) -> list[str]:
    symbols = dict.fromkeys(program.symbols(), 1)
    return [node.name for node in program.graph.nodes if macs(node, symbols)]


def alike(strides: tuple[int, ...] = (1, 1), *, width: int = 16, seed: int = 0, c: int = 16) -> Program:
    """Convolutions one after another."""
    generator = torch.Generator().manual_seed(seed)

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        q = edit.call(fxp.quantize.default, x, 0.03, -128, 127, torch.int8)
        for number, stride in enumerate(strides):
            weight = torch.randint(-127, 128, (width, width, 3, 3), generator=generator, dtype=torch.int8)
            b = torch.randint(20, 90, (width,), generator=generator, dtype=torch.int32)
            q = conv(edit, q, weight, None, b, c, relu=False, stride=stride, name=f"layer{number}")
        return edit.call(fxp.dequantize.default, q, 0.5)

    return built((1, width, 8, 8), body)


def of_layers(program: Program, target: str, sizes: Mapping[str, int] = SIZES) -> list[str]:
    """The signatures of the groups that hold a layer."""
    wanted = set(layers(program))
    return [signature for nodes, signature in signatures(program, target, sizes) if wanted & set(nodes)]


@pytest.mark.parametrize("target", ["tvm:native", "onnx:int", "onnx:qlinear"])
@pytest.mark.parametrize("net", [residual_net, attending_net], ids=["convolutions", "attention"])
def test_every_layer_is_in_one_group(net: Any, target: str) -> None:
    program = net()
    counts = Counter(name for nodes, _ in signatures(program, target, SIZES) for name in nodes)
    assert [counts[name] for name in layers(program)] == [1] * len(layers(program))


def with_an_island() -> Program:
    """A convolution, floats between two borders, and what follows."""

    def body(edit: Edit, x: fx.Node) -> fx.Node:
        weight, b = torch.ones(4, 4, 1, 1, dtype=torch.int8), torch.full((4,), 9, dtype=torch.int32)
        y = conv(edit, quantized(edit, x), weight, None, b, 8, relu=False, padding=0)
        return edit.call(torch.ops.aten.tanh.default, edit.call(fxp.dequantize.default, y, 0.1))

    return mixed(body)


@cache
def float_net() -> Program:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 8), nn.LayerNorm(8))
    return capture(model.eval(), (torch.zeros(1, 3, 8, 8),), dynamic_shapes={"input": {0: torch.export.Dim("batch")}})


@pytest.mark.parametrize(("net", "target"), [(with_an_island, "tvm:native"), (alike, "onnx:qlinear")])
def test_a_profile_has_the_groups_of_the_signatures_and_the_runtime(net: Any, target: str, tmp_path: Path) -> None:
    program = net()
    artifact = lower(program, target, tmp_path / "model") if target == "onnx:qlinear" else None
    found = profile(program, target, sizes=SIZES, threads=1, repeats=3, artifact=artifact)
    assert [(kernel.nodes, kernel.signature) for kernel in found[:-1]] == list(signatures(program, target, SIZES))
    assert found[-1] == KernelTime(RUNTIME, (), RUNTIME, found[-1].seconds)
    assert all(kernel.seconds >= 0 for kernel in found)
    assert all(kernel.name for kernel in found[:-1]), "each group of these nets has a kernel"


@pytest.mark.parametrize("target", ["tvm:native", "onnx:qlinear"])
def test_equal_layers_have_equal_signatures(target: str) -> None:
    strides = (1, 1, 1, 2)
    found = of_layers(alike(strides), target)
    first, second, _, other = found
    assert first == second != other
    assert of_layers(alike(strides, seed=5, c=14), target) == found, "weights, multipliers and shifts are values"
    for program, sizes in [(alike(strides, width=48), SIZES), (alike(strides), {"batch": 3})]:
        assert not set(of_layers(program, target, sizes)) & set(found)


@pytest.mark.parametrize("target", ["tvm:native", "onnx:qlinear"])
def test_an_island_is_one_group(target: str) -> None:
    program = with_an_island()
    assert program.islands
    assert [nodes for nodes, _ in signatures(program, target, SIZES) if set(nodes) & set(program.islands)] == [program.islands]


def test_a_kernel_of_onnx_runtime_leads_back_by_the_values_that_it_left() -> None:
    """What it fused, what it renamed, what it inserted, and what is nobody's."""
    program, (_, card) = alike((1, 1)), find("onnx:qlinear")
    _, first, second, last = (nodes[-1] for nodes, _ in ONNX.groups(program, card, sizes_at(program, SIZES)))
    calls = [
        Call("Transpose", (), ("quantize_default/QuantizeLinear",), ("inserted",)),
        Call(f"{first}/QLinearConv_token_3", (), ("inserted",), ("hidden",)),
        Call("made up", (), ("hidden",), (last,)),
        Call("elsewhere", (), (), ("unread",)),
    ]
    assert ONNX.owners(program, card, calls) == ((1,), (1,), (2, 3), ())
    assert second


def test_what_torch_s_exporter_fused_is_for_all_of_its_nodes() -> None:
    """The convolution took in the batch norm before ONNX Runtime added the activation."""
    program, (_, card) = float_net(), find("onnx:float")
    names = [name for nodes, _ in signatures(program, "onnx:float", {}) for name in nodes]
    assert names == ["conv2d", "batch_norm", "relu", "flatten", "linear", "layer_norm"]
    calls = [
        Call("relu_nchwc", (), ("input",), ("reordered",)),
        Call("ReorderOutput", (), ("reordered",), ("relu",)),
        Call("node_linear", (), ("flattened",), ("linear",)),
        Call("node_layer_norm", (), ("linear",), ("layer_norm",)),
    ]
    owned = [[names[place] for place in places] for places in ONNX.owners(program, card, calls)]
    assert owned == [["conv2d", "batch_norm", "relu"]] * 2 + [["flatten", "linear"], ["layer_norm"]]


def test_times_are_those_without_watching() -> None:
    """Of runs of 10 and 14 seconds: each call was watched for as long as the shortest took."""
    calls = [Call("a", (3.0, 3.0, 9.0)), Call("b", (1.0, 1.0, 1.0)), Call("c", (6.0, 5.0, 6.0))]
    found = settled(calls, [10.0, 10.0, 30.0], [14.0, 14.0, 20.0])
    assert found.seconds == (2.0, 0.0, 5.0)
    assert found.beyond == 3.0
    stopped = settled(calls, [40.0, 40.0, 40.0], [14.0, 14.0, 20.0])
    assert stopped.beyond == pytest.approx(float(np.median([4.0, 5.0, 4.0]))), "never more than beyond the calls of a watched run"
    assert sum(settled(calls, [7.0], [14.0] * 3).seconds) <= 7.0


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("tvm:nativ", "unknown target 'tvm:nativ'; nearest: tvm:native"),
        ("reference", "target 'reference': has no kernels to time; take an onnx or a tvm target"),
        ("tvm:riscv64", "target 'tvm:riscv64': this machine does not run it; profile on a machine of its kind"),
    ],
)
def test_a_target_that_cannot_be_profiled_is_refused_in_one_line(target: str, message: str) -> None:
    with pytest.raises(BackendError) as error:
        profile(alike(), target, sizes={}, threads=1)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_program_of_another_stage_is_refused() -> None:
    with pytest.raises(BackendError, match="'onnx:float': takes float programs, this one is integer"):
        signatures(alike(), "onnx:float", {})
    with pytest.raises(BackendError, match="tvm:native: float programs have no kernels of ours"):
        signatures(float_net(), "tvm:native", {})


def test_sizes_have_to_be_the_program_s() -> None:
    with pytest.raises(BackendError, match="no dynamic dimension 'bach'; there is batch"):
        signatures(alike(), "onnx:qlinear", {"bach": 1})
