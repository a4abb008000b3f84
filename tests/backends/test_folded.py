"""An adapter folded from a folder and one folded from the graph, then fused and quantised: the same bits on every target."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import fxpress as fx
import numpy as np
import pytest
import torch
from fxpress_ir import Program
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

TARGETS = ("reference", "onnx:int", "onnx:qlinear", "tvm:x86-64", "tvm:native")
RANK, ALPHA = 3, 12.0


class Gated(nn.Module):
    """x + down(silu(gate(norm(x))) * up(norm(x))); `up` with its adapter beside it where there is one."""

    def __init__(self, adapted: bool) -> None:
        super().__init__()
        self.norm, self.gate, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 24), nn.Linear(16, 24), nn.Linear(24, 16)
        self.adapted = adapted
        if adapted:
            self.first, self.second = nn.Linear(16, RANK, bias=False), nn.Linear(RANK, 24, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        up = self.up(y)
        if self.adapted:
            up = up + ALPHA / RANK * self.second(self.first(y))
        result: Tensor = x + self.down(functional.silu(self.gate(y)) * up)
        return result


def data(batch: int, seed: int) -> tuple[Tensor]:
    return (torch.randn(batch, 5, 16, generator=torch.Generator().manual_seed(seed)),)


def built(adapted: bool) -> Gated:
    torch.manual_seed(0)
    plain = Gated(False)
    if not adapted:
        return plain.eval()
    torch.manual_seed(1)
    model = Gated(True)
    model.load_state_dict(plain.state_dict(), strict=False)
    return model.eval()


def captured(adapted: bool) -> Program:
    return fx.capture(built(adapted), data(2, 0), dynamic_shapes=({0: fx.Dim("batch")},))


@cache
def folded(entrance: str) -> Program:
    """By the graph from the model with its adapter, or by the folder from the model without."""
    if entrance == "graph":
        return fx.Pipeline.parse("fold-adapters").run(captured(True)).program
    model = built(True)
    with TemporaryDirectory() as folder:
        config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": ["up"], "bias": "none"}
        Path(folder, "adapter_config.json").write_text(json.dumps(config))
        parts = {"lora_A": model.first, "lora_B": model.second}
        tensors = {f"base_model.model.up.{name}.weight": layer.weight.detach() for name, layer in parts.items()}
        save_file(tensors, Path(folder, "adapter_model.safetensors"))
        return fx.Pipeline([fx.passes.FoldAdapters(path=(folder,))]).run(captured(False)).program


@pytest.mark.parametrize("entrance", ["graph", "folder"])
def test_folded_it_is_the_adapted_model_in_the_graph_of_the_plain_one(entrance: str) -> None:
    (x,) = data(3, 5)
    expected, found = built(True)(x), folded(entrance).run(x)[0]
    assert float((found - expected).abs().max()) < 1e-5 * float(expected.abs().max())  # one rounding of each weight
    assert float((built(False)(x) - expected).abs().max()) > 0.05 * float(expected.abs().max())
    assert len(folded(entrance).graph.nodes) == len(captured(False).graph.nodes)


@cache
def quantized(entrance: str) -> Program:
    text = "fuse-parallel, quantize-dyadic{integer_only=true}"
    result = fx.Pipeline.parse(text).run(folded(entrance), calibration=[data(16, seed) for seed in range(4)])
    assert any(step.fired and step.name == "fuse-parallel" for step in result.report.steps)
    return result.program


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("entrance", ["graph", "folder"])
def test_the_same_bits(entrance: str, target: str, tmp_path: Path) -> None:
    program, inputs = quantized(entrance), data(3, 9)
    artifact = fx.lower(program, target, out=tmp_path / "model")
    assert np.array_equal(artifact.run(*(value.numpy() for value in inputs))[0], program.run(*inputs)[0].numpy())
