"""Blocks that share their weights, and an embedding that is the head, too: every kind of artifact holds them once."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import fxpress as fx
import numpy as np
import pytest
import torch
from fxpress_ir import Program
from torch import Tensor, nn
from torch.nn import functional

WIDTH, WORDS, DEPTH = 64, 256, 3
BLOCK = 2 * WIDTH * 3 * WIDTH
"""Weights of one block."""


class Mlp(nn.Module):
    """x + down(gelu(up(norm(x))))."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(3 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.down(functional.gelu(self.up(self.norm(x))))
        return result


class Decoder(nn.Module):
    """[batch, 5] ids to [batch, 5, 256] scores by the embedding's own rows."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, block = nn.Embedding(WORDS, WIDTH), Mlp()
        self.blocks, self.norm = nn.ModuleList(block if tied else Mlp() for _ in range(DEPTH)), nn.LayerNorm(WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        return functional.linear(self.norm(x), self.embedding.weight)


def ids(batch: int, seed: int = 0) -> Tensor:
    return torch.randint(0, WORDS, (batch, 5), generator=torch.Generator().manual_seed(seed))


@cache
def floats(tied: bool) -> Program:
    return fx.capture(Decoder(tied=tied).eval(), (ids(2),), dynamic_shapes={"ids": {0: fx.Dim("batch")}})


@cache
def made(tied: bool, pipeline: str) -> Program:
    return fx.Pipeline.parse(pipeline).run(floats(tied), calibration=[(ids(16, seed),) for seed in range(2)]).program


PIPELINES = {"onnx:float": "remove-noops", "onnx:qdq": "place-quantizers"}
INTEGER = "quantize-dyadic{integer_only=true}"


@pytest.mark.parametrize("target", ["reference", "onnx:float", "onnx:qdq", "onnx:int", "onnx:qlinear", "tvm:x86-64"])
def test_shared_blocks_are_stored_once(target: str, tmp_path: Path) -> None:
    tied, apart = (
        fx.lower(made(one, PIPELINES.get(target, INTEGER)), target, out=tmp_path / name) for one, name in ((True, "tied"), (False, "apart"))
    )
    shared = (DEPTH - 1) * BLOCK * (4 if target == "onnx:float" else 1)
    assert tied.payload_size <= apart.payload_size - shared
    program = made(True, PIPELINES.get(target, INTEGER))
    found, wanted = tied.run(ids(3).numpy())[0], program.run(ids(3))[0].numpy()
    assert np.array_equal(found, wanted) if program.stage == "integer" else np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()


def test_the_embedding_that_is_the_head_is_stored_once(tmp_path: Path) -> None:
    artifact = fx.lower(floats(True), "onnx:float", out=tmp_path / "model")
    weights = sum(tensor.numel() * tensor.element_size() for tensor in floats(True).tensors.values())
    assert artifact.payload_size < weights + WORDS * WIDTH * 4


def test_blocks_of_equal_weights_become_shared_integers() -> None:
    edit = floats(False).edit()
    for name in [name for name in edit.tensors if name.startswith("blocks")]:
        edit.tensors[name] = edit.tensors[f"blocks.0.{name.split('.', 2)[2]}"].clone()
    equal = edit.finish()
    assert len(equal.tensors) > len(floats(True).tensors)
    found = fx.Pipeline.parse(INTEGER).run(equal, calibration=[(ids(16, seed),) for seed in range(2)]).program
    assert found.cost().weight_bytes == made(True, INTEGER).cost().weight_bytes < made(False, INTEGER).cost().weight_bytes - 2 * BLOCK + 1


def test_shared_integers_are_as_near_as_each_layers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = floats(True).run(ids(8, 5))[0]
    shared = made(True, INTEGER).run(ids(8, 5))[0]
    monkeypatch.setattr("fxpress_passes.quantize.decision.tied_scales", lambda *_: None)
    own = fx.Pipeline.parse(INTEGER).run(floats(True), calibration=[(ids(16, seed),) for seed in range(2)]).program.run(ids(8, 5))[0]
    assert (shared - wanted).norm() < 1.1 * (own - wanted).norm()
