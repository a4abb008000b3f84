"""Which blocks of channels pass through shape operators and attention."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from float_programs import captured
from fxpress_ir import Program
from fxpress_passes.equalize.carry import carries, path_to
from fxpress_passes.pipeline import Pipeline
from torch import Tensor, fx, nn


class Behind(nn.Module):
    """Something behind a linear layer of 16 rows."""

    def __init__(self, body: Callable[[Tensor, Tensor], Tensor], width: int = 16) -> None:
        super().__init__()
        self.body, self.layer = body, nn.Linear(16, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x, self.layer(x))


def _heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (-1, 4)).transpose(1, 2)


def _attention(x: Tensor, v: Tensor) -> Tensor:
    scores = (_heads(x) @ _heads(x).transpose(-1, -2)).softmax(-1)
    return (scores @ _heads(v)).transpose(1, 2).flatten(2)


def _grouped(x: Tensor, v: Tensor) -> Tensor:
    scores = (_heads(x) @ _heads(x).transpose(-1, -2)).softmax(-1)
    values = v.unflatten(-1, (2, 1, 4)).expand(-1, -1, -1, 2, -1).flatten(2, 3).transpose(1, 2)
    return (scores @ values).transpose(1, 2).flatten(2)


def _path(body: Callable[[Tensor, Tensor], Tensor], width: int = 16) -> tuple[Program, list[fx.Node]]:
    program = Pipeline.parse("decompose-unflatten").run(captured(Behind(body, width), 2, 6, 16)).program
    layer = next(node for node in program.graph.nodes if node.target is torch.ops.aten.linear.default)
    return program, path_to(program.outputs()[0], layer)


CASES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int, int]] = {
    "attention": (_attention, 16, 4),
    "grouped attention": (_grouped, 8, 4),
    "views": (lambda x, v: v.reshape(-1, 3, 16)[:, 1:], 16, 16),
    "pairs of rows": (lambda x, v: v.view(-1, 12, 8), 16, 8),
}


@pytest.mark.parametrize("name", CASES)
def test_blocks_pass_up_to_the_size_of_a_head(name: str) -> None:
    body, width, most = CASES[name]
    program, path = _path(body, width)
    last = int(path[-1].meta["val"].shape[-1])
    for size in (2, 4, 8, 16):
        if size <= min(width, last):
            assert carries(program, path, size) == (size <= most), size


@pytest.mark.parametrize(
    "body",
    [
        lambda x, v: v.transpose(1, 2)[..., :2].transpose(1, 2)[:, :, ::2],
        lambda x, v: v[..., 1:],
        lambda x, v: v.view(-1, 6, 4, 4).transpose(2, 3).flatten(2),
        lambda x, v: v.flip(-1).relu(),
    ],
)
def test_what_mixes_channels_otherwise_does_not(body: Callable[[Tensor, Tensor], Tensor]) -> None:
    program, path = _path(body)
    assert not carries(program, path, 2)


class Patches(nn.Module):
    def __init__(self, turns: bool) -> None:
        super().__init__()
        self.conv, self.turns = nn.Conv2d(3, 8, 2, 2), turns

    def forward(self, x: Tensor) -> Tensor:
        patches = self.conv(x).flatten(2)
        return patches.transpose(1, 2) if self.turns else patches[..., :8]


@pytest.mark.parametrize("turns", [True, False])
def test_a_convolutions_channels_are_its_second_dimension(turns: bool) -> None:
    program = captured(Patches(turns), 2, 3, 8, 8)
    conv = next(node for node in program.graph.nodes if node.target is torch.ops.aten.conv2d.default)
    assert carries(program, path_to(program.outputs()[0], conv), 8, 1) == turns
