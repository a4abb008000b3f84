"""Blocks are what repeats along a stream: layers of transformers, convolutional blocks with their activation; nothing else."""

from __future__ import annotations

import pytest
import torch
from coupled import captured
from fxpress_ir import Program
from fxpress_ir.analysis.blocks import residual_blocks, rows
from fxpress_ir.slicing import remove_blocks
from torch import Tensor, nn
from torch.nn import functional


class Layer(nn.Module):
    """x + mix(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, hidden: int = 12) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mix = nn.LayerNorm(8), nn.LayerNorm(8), nn.Linear(8, 8)
        self.up, self.down = nn.Linear(8, hidden), nn.Linear(hidden, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mix(self.norm1(x))
        result: Tensor = x + self.down(functional.gelu(self.up(self.norm2(x))))
        return result


class PostNorm(Layer):
    """norm(x + f(x))."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.mix(x))
        result: Tensor = self.norm2(x + self.down(functional.gelu(self.up(x))))
        return result


class Parallel(Layer):
    """x + mix(norm(x)) + mlp(norm(x)), as in GPT-J."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        result: Tensor = x + self.mix(y) + self.down(functional.gelu(self.up(y)))
        return result


class Conv(nn.Module):
    """relu(x + f(x)) twice behind a stem; the second of a new width, with a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.wide, self.short = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        x = functional.relu(x + self.b(functional.relu(self.a(x))))
        return functional.relu(self.short(x) + self.wide(x))


class TanhGelu(nn.Module):
    """x + 0.04 x^3 is no block: it has no layer."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x + 0.044715 * x**3)


def stacked(*layers: nn.Module) -> Program:
    return captured(nn.Sequential(nn.Linear(4, 8), *layers, nn.Linear(8, 5)), torch.zeros(2, 6, 4))


def operators(program: Program) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (Layer, ["linear ==> add_1", "add_1 ==> add_3", "add_3 ==> add_5"]),
        (PostNorm, ["linear ==> layer_norm_1", "layer_norm_1 ==> layer_norm_3", "layer_norm_3 ==> layer_norm_5"]),
        (Parallel, ["linear ==> add_1", "add_1 ==> add_3", "add_3 ==> add_5"]),
    ],
)
def test_what_repeats_is_one_block(kind: type[Layer], found: list[str]) -> None:
    program = stacked(kind(), kind(), kind())
    assert [str(block) for block in residual_blocks(program)] == found
    smaller = remove_blocks(program, residual_blocks(program)[:2])
    assert operators(smaller) == operators(stacked(kind()))


def test_a_convolutional_block_has_its_activation_and_a_projection_is_none() -> None:
    assert [str(block) for block in residual_blocks(captured(Conv(), torch.zeros(2, 1, 8, 8)))] == ["relu ==> relu_2"]


@pytest.mark.parametrize("model", [nn.Sequential(nn.Linear(4, 4), TanhGelu()), nn.Linear(4, 4)])
def test_what_is_no_residual_block(model: nn.Module) -> None:
    program = captured(model, torch.zeros(2, 4))
    assert residual_blocks(program) == rows(program) == []


def test_a_block_knows_its_layers_and_tensors() -> None:
    first, second = residual_blocks(stacked(Layer(), Layer()))
    assert [node.name for node in first.layers] == ["linear_1", "linear_2", "linear_3"]
    names = ("norm1.weight", "norm1.bias", "mix.weight", "mix.bias", "norm2.weight", "norm2.bias", "up.weight", "up.bias", *_DOWN)
    assert [node.target for node in second.constants] == [f"2.{name}" for name in names]
    assert [first.nodes[-1], second.input] == [first.output, first.output]


_DOWN = ("down.weight", "down.bias")


def test_blocks_of_another_structure_begin_another_row() -> None:
    program = stacked(Layer(), Layer(), nn.Linear(8, 8), Layer(20), Layer(20), Layer(20))
    assert [len(row) for row in rows(program)] == [2, 3]
    for row in rows(program):
        assert all(block.is_like(row[0], program) for block in row)


def test_neighbours_may_leave_together_and_none_may() -> None:
    program = stacked(Layer(), Layer(), Layer())
    blocks = residual_blocks(program)
    assert remove_blocks(program, []) is program
    found = remove_blocks(program, [blocks[0], blocks[1]])
    x = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))
    between = remove_blocks(program, [blocks[1]])
    assert torch.equal(found.run(x)[0], remove_blocks(between, residual_blocks(between)[:1]).run(x)[0])
    assert {name.split(".")[0] for name in found.tensors} == {"0", "3", "4"}
