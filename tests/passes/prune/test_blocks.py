"""Blocks are what repeats along a stream: layers of transformers, convolutional blocks with their activation; nothing else."""

from __future__ import annotations

import pytest
import torch
from encoder import Encoder, Layer
from float_programs import captured, operators
from fxpress_passes import Context, PruneBlocks
from fxpress_passes.prune.blocks import residual_blocks
from torch import Tensor, nn
from torch.nn import functional


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


class PostNorm(Layer):
    """norm(x + f(x))."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.out(self.value(x)))
        result: Tensor = self.norm2(x + self.down(functional.gelu(self.up(x))))
        return result


class Parallel(Layer):
    """x + attention(norm(x)) + mlp(norm(x)), as in GPT-J."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        result: Tensor = x + self.out(self.value(y)) + self.down(functional.gelu(self.up(y)))
        return result


class TanhGelu(nn.Module):
    """x + 0.04 x^3 is no block: it has no layer."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x + 0.044715 * x**3)


def stacked(kind: type[Layer], depth: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 16), *(kind(16, 4, 24) for _ in range(depth)), nn.Linear(16, 5))


def test_layers_of_attention_and_mlp_are_one_block() -> None:
    program = captured(Encoder(depth=3), 2, 6, 4)
    assert [str(block) for block in residual_blocks(program)] == ["linear ==> add_1", "add_1 ==> add_3", "add_3 ==> add_5"]


def test_norms_behind_the_sums_belong_to_the_block() -> None:
    found = [str(block) for block in residual_blocks(captured(stacked(PostNorm), 2, 6, 4))]
    assert found == ["linear ==> layer_norm_1", "layer_norm_1 ==> layer_norm_3", "layer_norm_3 ==> layer_norm_5"]


def test_two_branches_at_once_are_one_block() -> None:
    found = [str(block) for block in residual_blocks(captured(stacked(Parallel), 2, 6, 4))]
    assert found == ["linear ==> add_1", "add_1 ==> add_3", "add_3 ==> add_5"]


def test_a_convolutional_block_has_its_activation_and_a_projection_is_none() -> None:
    assert [str(block) for block in residual_blocks(captured(Conv(), 2, 1, 8, 8))] == ["relu ==> relu_2"]


@pytest.mark.parametrize("model", [nn.Sequential(nn.Linear(4, 4), TanhGelu()), nn.Linear(4, 4)])
def test_what_is_no_residual_block(model: nn.Module) -> None:
    assert residual_blocks(captured(model, 2, 4)) == []


@pytest.mark.parametrize("kind", [PostNorm, Parallel])
def test_without_blocks_a_smaller_network_is_left(kind: type[Layer]) -> None:
    program = captured(stacked(kind), 2, 6, 4)
    found = PruneBlocks(ratio=0.67, score="random").apply(program, Context())
    assert operators(found) == operators(captured(stacked(kind, 1), 2, 6, 4))
