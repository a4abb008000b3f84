"""docs/kernels.md: which kernel each layer gets on each card, held to the planner; every kernel that multiplies is in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from computed_cases import NUMBERS, attended, product
from fxpress_backends.tvm import TVM
from fxpress_backends.tvm.kernels import KERNELS
from fxpress_backends.tvm.plan import plan
from fxpress_ir import Edit, Program
from several import Input, several
from support import fxp
from torch import fx
from tvm_cases import S8, convolution, linear

DOCUMENT = Path(__file__).parents[3] / "docs" / "kernels.md"
WINDOW = ((16, 16), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))
I8 = torch.int8
LAYERS: dict[str, tuple[list[Input], Callable[..., fx.Node]]] = {
    "conv2d": ([(("batch", 64, 16, 16), I8)], convolution((64, 64, 1, *WINDOW), 1, S8)),
    "depthwise": ([(("batch", 64, 16, 16), I8)], convolution((64, 64, 64, *WINDOW), 1, S8)),
    "linear": ([(("batch", 16, 64), I8)], linear(64, 64, 1)),
    "linear of 16 bits": ([(("batch", 16, 64), torch.int16)], linear(64, 64, 1)),
    "matmul": ([(("batch", 16, 64), I8), (("batch", 64, 16), I8)], product(S8)),
    "attention": ([(("batch", 2, 16, 64), I8)] * 3, attended(NUMBERS[0], "qkv")),
    "table": (
        [(("batch", 9, 64), I8)],
        lambda edit, x: edit.call(fxp.lut.default, x, edit.add_tensor("table", torch.arange(256).to(torch.uint8)[None]), -1),
    ),
}
MULTIPLY = ("attention_", "conv2d_", "linear_", "matmul_")


@pytest.fixture(scope="module")
def program() -> Program:
    def body(edit: Edit, *inputs: fx.Node) -> list[fx.Node]:
        left = list(inputs)
        return [make(edit, *[left.pop(0) for _ in given]) for given, make in LAYERS.values()]

    return several([entry for given, _ in LAYERS.values() for entry in given], body)


def table() -> dict[str, dict[str, str]]:
    """card ==> layer ==> kernel, as the document says."""
    lines = [line.strip("| \n").split(" | ") for line in DOCUMENT.read_text().splitlines() if line.startswith("|")]
    head, _, *rows = lines[: 2 + len(TVM.targets())]
    layers = [cell.strip() for cell in head[1:]]
    found = {}
    for name, *cells in (row for row in rows if row[0].startswith("`tvm:")):
        for card in name.replace("`", "").split(", "):
            found[card.strip()] = dict(zip(layers, (cell.strip(" `") for cell in cells), strict=True))
    return found


def planned(program: Program) -> dict[str, dict[str, str]]:
    found = {}
    for card in TVM.targets():
        if card.name != "tvm:native":
            kernels = [group.kernel for group in plan(program, card).groups if group.kernel.startswith((*MULTIPLY, "lut"))]
            found[card.name] = dict(zip(LAYERS, kernels, strict=True))
    return found


def test_the_document_says_what_the_planner_does(program: Program) -> None:
    assert table() == planned(program)


def test_every_kernel_of_a_layer_is_named(program: Program) -> None:
    named = {kernel for layers in planned(program).values() for kernel in layers.values()}
    text = DOCUMENT.read_text()
    assert [name for name in KERNELS if name.startswith((*MULTIPLY, "lut")) and name not in named and f"`{name}`" not in text] == []
