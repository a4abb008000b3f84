"""transformers' models with an attention mask as integer-only programs: padded rows, the same bits on every target."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import fxpress as fx
import numpy as np
import pytest
import torch
from fxpress.quality import sqnr
from fxpress_ir import Program
from fxpress_ir.ops import arguments
from torch import Tensor, nn
from torch.export import Dim

from .architectures import architecture

_fxp = torch.ops.fxp
TARGETS = ("reference", "onnx:int", "onnx:qlinear")
CASES = (("bert", "sdpa"), ("gpt2", "eager"), ("llama", "sdpa"), ("qwen2", "eager"))
BUILT = "qwen2"
"""What is lowered to TVM here: it hides later keys too."""


class Masked(nn.Module):
    """The first output for ids and a mask."""

    def __init__(self, model: nn.Module, attention: str) -> None:
        super().__init__()
        self.model = model
        self.model.config._attn_implementation = attention

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        output: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask)[0]
        return output


def padded(batch: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Ids, and a mask that hides the last ones of all rows but the first; each keeps one."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 100, (batch, length), generator=generator)
    kept = torch.randint(1, length, (batch, 1), generator=generator)
    kept[0] = length if batch > 1 else length // 2
    return ids, (torch.arange(length) < kept).long()


@cache
def _quantized(name: str, attention: str) -> tuple[Program, Program]:
    model, _ = architecture(name)
    sizes = {0: Dim("batch"), 1: Dim("seq", min=2, max=64)}
    shapes = {"input_ids": sizes, "attention_mask": sizes}
    program = fx.capture(Masked(model, attention).eval(), padded(2, 12), dynamic_shapes=shapes)
    pipeline = fx.Pipeline.parse("fold-batch-norm, quantize-dyadic{integer_only=true}")
    return program, pipeline.run(program, calibration=[padded(4, 12, seed) for seed in range(4)]).program


@pytest.mark.parametrize(("name", "attention"), CASES)
def test_the_same_bits_at_two_batch_sizes_and_two_lengths(name: str, attention: str, tmp_path: Path) -> None:
    program, integer = _quantized(name, attention)
    assert integer.stage == "integer"
    calls = integer.graph.find_nodes(op="call_function", target=_fxp.attention.default)
    assert len(calls) == 2
    assert {integer.shape_of(arguments(call)["mask"]) for call in calls} == {("batch", 1, 1, "seq")}
    assert all(arguments(call)["causal"] is (name != "bert") for call in calls)
    targets = (*TARGETS, "tvm:x86-64") if name == BUILT else TARGETS
    artifacts = {target: fx.lower(integer, target, out=tmp_path / target.replace(":", "-")) for target in targets}
    for batch, length in ((1, 12), (3, 12), (1, 20), (3, 20)):
        inputs = padded(batch, length, 100 + batch)
        _check_equal(integer, artifacts, *inputs)
        assert sqnr(*program.run(*inputs), *integer.run(*inputs)) >= 30
    # queries that see no key: those of a row that is hidden altogether, and the first ones that padding from the left hides
    _check_equal(integer, artifacts, inputs[0][:, :9], (torch.arange(9) >= torch.tensor([[0], [4], [9]])).long())


def _check_equal(program: Program, artifacts: Mapping[str, fx.Artifact], *inputs: Tensor) -> None:
    (expected,) = program.run(*inputs)
    for target, artifact in artifacts.items():
        assert np.array_equal(artifact.run(*inputs)[0], expected.numpy()), target


def test_what_is_hidden_changes_nothing_that_is_seen() -> None:
    _, integer = _quantized(*CASES[0])
    ids, mask = padded(3, 9)
    others = torch.where(mask == 1, ids, (ids + 1) % 100)
    found, other = (integer.run(given, mask)[0] for given in (ids, others))
    assert torch.equal(found[mask == 1], other[mask == 1])
    assert not torch.equal(found, other)
