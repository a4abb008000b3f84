"""Mixed programs made by hand: what the operators of an island between integers are is up to the test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from fxpress_ir import Edit, Program, capture
from fxpress_ir.ops import OPERATORS
from numpy.typing import NDArray
from support import aten, conv, fxp
from torch import Tensor, fx, nn

STEP = 0.05
Body = Callable[[Edit, fx.Node], fx.Node]


class _Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + x


def mixed(body: Body, shape: tuple[int, ...] = (4, 6, 6), *, dtype: torch.dtype = torch.float32, **more: Any) -> Program:
    """A program whose float operators are islands; `more` names further dynamic dimensions."""
    dims = {0: torch.export.Dim("batch"), **{int(axis[4:]): dim for axis, dim in more.items()}}
    edit = capture(_Twice(), (torch.zeros(2, *shape, dtype=dtype),), dynamic_shapes={"x": dims}).edit()
    x, old = edit.graph.find_nodes(op="placeholder")[0], edit.graph.output_node().args[0][0]
    with edit.graph.inserting_before(old):
        new = body(edit, x)
    edit.replace(old, new)
    floats = [node.name for node in edit.graph.nodes if node.op == "call_function" and node.target not in OPERATORS]
    sizes = {node.name for node in edit.graph.nodes if node.target is aten.sym_size.int}
    return edit.finish(stage="mixed", islands=tuple(name for name in floats if name not in sizes))


def quantized(edit: Edit, x: fx.Node) -> fx.Node:
    return edit.call(fxp.quantize.default, x, STEP, -128, 127, torch.int8)


def real(edit: Edit, q: fx.Node) -> fx.Node:
    return edit.call(fxp.dequantize.default, q, STEP)


def integer_conv(edit: Edit, x: fx.Node, name: str) -> fx.Node:
    weight = torch.randint(-127, 128, (4, 4, 3, 3), generator=torch.Generator().manual_seed(len(name)), dtype=torch.int8)
    return conv(edit, x, weight, None, torch.tensor([400], dtype=torch.int32), 16, relu=False, name=name)


def hardly_differs(result: NDArray[Any], expected: NDArray[Any]) -> None:
    """Float operators of two runtimes differ in their last bits, so that few values cross to the next step."""
    assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
    moved = np.abs(result.astype(np.float64) - expected) > 1e-5 * max(1.0, float(np.abs(expected).max()))
    assert moved.mean() < 0.01
