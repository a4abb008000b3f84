"""Blocks fused, shared or stitched, then quantised: the same bits on every target."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import fxpress as fx
import numpy as np
import pytest
import torch
from fxpress_ir import Program
from fxpress_ir.analysis.blocks import residual_blocks
from torch import Tensor, nn
from torch.nn import functional

TARGETS = ("reference", "onnx:int", "onnx:qlinear", "tvm:x86-64", "tvm:native")
CASES = [(made, target) for made in ("fused", "shared", "stitched") for target in TARGETS]


class Mlp(nn.Module):
    """x + down(gelu(up(norm(x))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 24), nn.Linear(24, width)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.down(functional.gelu(self.up(self.norm(x))))
        return result


def data(batch: int, seed: int) -> tuple[Tensor]:
    return (torch.randn(batch, 6, 4, generator=torch.Generator().manual_seed(seed)),)


@cache
def floats(width: int = 16) -> Program:
    """Four blocks."""
    torch.manual_seed(width)
    model = nn.Sequential(nn.Linear(4, width), *(Mlp(width) for _ in range(4)), nn.LayerNorm(width), nn.Linear(width, 5))
    return fx.capture(model.eval(), data(2, 0), dynamic_shapes=({0: fx.Dim("batch")},))


@cache
def quantized(made: str) -> Program:
    batches = [data(16, seed) for seed in range(4)]
    pipeline = {"fused": "fuse-blocks{remove=2, steps=10}, ", "shared": "share-blocks{remove=2, fill=true}, "}.get(made, "")
    program = fx.stitch(floats(), floats(12), at=(2, 2), calibration=batches) if made == "stitched" else floats()
    found = fx.Pipeline.parse(f"{pipeline}quantize-dyadic{{integer_only=true}}").run(program, calibration=batches).program
    assert found.stage == "integer"
    return found


@pytest.mark.parametrize(("made", "target"), CASES)
def test_the_same_bits(made: str, target: str, tmp_path: Path) -> None:
    program = quantized(made)
    inputs = data(3, 9)
    artifact = fx.lower(program, target, out=tmp_path / "model")
    assert np.array_equal(artifact.run(*(value.numpy() for value in inputs))[0], program.run(*inputs)[0].numpy())


def test_an_exported_graph_has_the_nodes_of_so_many_blocks_less(tmp_path: Path) -> None:
    batches = [data(16, seed) for seed in range(4)]
    fused, pruned = (
        fx.Pipeline.parse(text).run(floats(), calibration=batches).program
        for text in ("fuse-blocks{remove=2, steps=2}", "prune-blocks{ratio=0.25}")
    )
    blocks = residual_blocks(floats())
    programs = {"whole": floats(), "one less": pruned, "two less": fused}
    nodes = [fx.lower(one, "onnx:float", out=tmp_path / name).manifest["details"]["nodes"] for name, one in programs.items()]
    assert nodes[0] - nodes[1] == nodes[1] - nodes[2] > 0
    assert len(list(floats().graph.nodes)) - len(list(fused.graph.nodes)) == sum(len({*b.nodes, *b.constants}) for b in blocks[:2])
