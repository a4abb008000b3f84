"""Pruned, then quantised: a smaller integer program, the same bits on every target."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import fxpress as fx
import numpy as np
import pytest
from fxpress_ir import Program

PIPELINES = {
    "digits-cnn": "prune-channels{ratio=0.5}, fold-batch-norm, quantize-dyadic{integer_only=true}",
    "digits-vit": "prune-heads{ratio=0.5}, prune-channels{ratio=0.5, align=8}, quantize-dyadic{integer_only=true}",
    "char-lm": "prune-heads{ratio=0.5}, prune-channels{ratio=0.5, align=8}, quantize-dyadic{integer_only=true}",
}
BUILT = {"digits-cnn": "tvm:x86-64", "digits-vit": "tvm:native", "char-lm": "tvm:x86-64"}
"""One build a model, which is what takes time here."""
CASES = [
    pytest.param(name, target, marks=[pytest.mark.slow] if name == "char-lm" else [])
    for name, built in BUILT.items()
    for target in ("reference", "onnx:int", "onnx:qlinear", built)
]


@cache
def pruned(name: str) -> tuple[fx.zoo.Entry, Program]:
    entry = fx.zoo.load(name)
    whole = fx.capture(entry.model, entry.inputs, dynamic_shapes=entry.dynamic_shapes)
    result = fx.Pipeline.parse(PIPELINES[name]).run(whole, calibration=entry.calibration[:2])
    assert result.program.stage == "integer"
    assert result.program.cost().macs < 0.8 * whole.cost().macs
    return entry, result.program


@pytest.mark.parametrize(("name", "target"), CASES)
def test_the_same_bits(name: str, target: str, tmp_path: Path) -> None:
    entry, program = pruned(name)
    inputs = entry.held_out[0][:3]
    artifact = fx.lower(program, target, out=tmp_path / "model")
    assert np.array_equal(artifact.run(inputs.numpy())[0], program.run(inputs)[0].numpy())
