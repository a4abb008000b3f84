"""What the ONNX tests share: lower, load, run, and compare every bit with the program in PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from fxpress_backends.contract import Target
from fxpress_backends.onnx import ONNX
from fxpress_ir import Program, verify

sys.path.insert(0, str(Path(__file__).parent))
TARGETS = {target.name: target for target in ONNX.targets()}


@pytest.fixture(scope="session")
def targets() -> Mapping[str, Target]:
    return TARGETS


@pytest.fixture(scope="session")
def same_bits() -> Callable[..., None]:
    """``same_bits(program, x, ...)``: both integer flavours give the bits of the program, whose rules hold."""

    def check(program: Program, *inputs: torch.Tensor) -> None:
        verify(program)
        expected = program.run(*inputs)
        for name in ("onnx:int", "onnx:qlinear"):
            assert ONNX.legalize(program, TARGETS[name]) == ()
            with TemporaryDirectory() as folder:
                ONNX.lower(program, TARGETS[name], Path(folder))
                results = ONNX.load(Path(folder), {"target": name}, {"threads": 1}).run([x.numpy() for x in inputs])
            compare(name, results, expected)

    def compare(name: str, results: tuple[Any, ...], expected: tuple[torch.Tensor, ...]) -> None:
        assert len(results) == len(expected)
        for result, wanted in zip(results, expected, strict=True):
            assert result.dtype == wanted.numpy().dtype, name
            np.testing.assert_array_equal(result, wanted.numpy(), err_msg=name)

    return check
