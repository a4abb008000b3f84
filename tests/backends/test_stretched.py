"""Power-of-two factors and folded first tokens: the same bits on every target, at several lengths."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import fxpress as fx
import numpy as np
import pytest
import torch
from fxpress_ir import Program
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from stretched import LONGEST, TOKEN, ClassToken, FirstToken, sequences

TARGETS = ("reference", "onnx:int", "onnx:qlinear", "tvm:x86-64")
INTEGERS = "quantize-dyadic{integer_only=true}"
SIZES = ((1, 2), (3, 20), (2, LONGEST))


def _rows(count: int, seed: int) -> tuple[Tensor]:
    return (torch.randn(count, 16, generator=torch.Generator().manual_seed(seed)),)


@cache
def _class_token() -> Program:
    """Both passes in one program."""
    program = fx.capture(ClassToken().eval(), _rows(2, 0), dynamic_shapes={"x": {0: fx.Dim("batch")}})
    data = [_rows(16, seed) for seed in range(4)]
    result = fx.Pipeline.parse(f"fold-first-token, power-of-two-factors, {INTEGERS}").run(program, calibration=data)
    assert {"fold-first-token", "power-of-two-factors"} <= {step.name for step in result.report.steps if step.fired}
    return result.program


@cache
def _decoder() -> Program:
    shapes = {"ids": {0: fx.Dim("batch"), 1: fx.Dim("seq", min=2, max=LONGEST)}}
    program = fx.capture(FirstToken().eval(), sequences(2, 12, 0), dynamic_shapes=shapes)
    data = [sequences(8, 12, seed) for seed in range(4)]
    result = fx.Pipeline.parse(f"fold-first-token{{token={TOKEN}}}, {INTEGERS}").run(program, calibration=data)
    assert any(step.fired and step.name.startswith("fold-first-token") for step in result.report.steps)
    return result.program


@pytest.mark.parametrize("target", TARGETS)
def test_factors_and_a_class_token_are_the_same_everywhere(target: str, tmp_path: Path) -> None:
    program = _class_token()
    assert program.stage == "integer"
    artifact = fx.lower(program, target, out=tmp_path / "model")
    for count in (1, 3):
        inputs = _rows(count, 9)
        assert np.array_equal(artifact.run(*inputs)[0], program.run(*inputs)[0].numpy())


@pytest.mark.parametrize("target", TARGETS)
def test_a_decoders_first_token_is_the_same_everywhere(target: str, tmp_path: Path) -> None:
    program = _decoder()
    assert program.stage == "integer"
    artifact = fx.lower(program, target, out=tmp_path / "model")
    for count, length in SIZES:
        inputs = sequences(count, length, 9)
        assert np.array_equal(artifact.run(*inputs)[0], program.run(*inputs)[0].numpy()), (count, length)
