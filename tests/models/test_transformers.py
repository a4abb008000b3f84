"""transformers' architectures as integer-only programs by the plain pipeline: the same bits on every target, near to the floats."""

from __future__ import annotations

from pathlib import Path

import fxpress as fx
import numpy as np
import pytest
import torch
from fxpress.quality import sqnr
from torch.export import Dim

from .architectures import ARCHITECTURES, architecture

NAMES = ("bert", "vit", "swin", "convnext", "gpt2", "llama", "qwen2")
TARGETS = ("reference", "onnx:int", "onnx:qlinear")
BUILT = {"bert", "swin", "llama"}
"""Those that are lowered to TVM here, an encoder, a vision model and a decoder; benchmarks/any_transformer.py lowers all."""


@pytest.mark.parametrize("name", NAMES)
def test_the_same_bits_at_two_batch_sizes_and_two_lengths(name: str, tmp_path: Path) -> None:
    model, taken = architecture(name)
    of_text = taken.vocabulary is not None
    shapes = {taken.name: {0: Dim("batch"), 1: Dim("seq", max=64)}} if of_text else taken.dynamic_shapes
    program = fx.capture(model, taken.inputs(1), dynamic_shapes=shapes)
    pipeline = fx.Pipeline.parse("fold-batch-norm, quantize-dyadic{integer_only=true}")
    integer = pipeline.run(program, calibration=[taken.inputs(4, seed) for seed in range(4)]).program
    assert integer.stage == "integer"
    targets = (*TARGETS, "tvm:x86-64") if name in BUILT else TARGETS
    artifacts = {target: fx.lower(integer, target, out=tmp_path / target.replace(":", "-")) for target in targets}
    inputs = [taken.inputs(batch, 100 + batch)[0] for batch in (1, 3)]
    if of_text:
        inputs += [torch.randint(0, 100, (batch, 20), generator=torch.Generator().manual_seed(batch)) for batch in (1, 3)]
    for x in inputs:
        expected = integer.run(x)
        for target, artifact in artifacts.items():
            assert all(np.array_equal(got, want.numpy()) for got, want in zip(artifact.run(x), expected, strict=True)), target
        assert min(sqnr(real, found) for real, found in zip(program.run(x), expected, strict=True)) >= 20
        assert fx.saturation(integer, x).share < 0.01


def test_every_name_is_an_architecture() -> None:
    assert set(NAMES) <= ARCHITECTURES.keys()
