"""Real architectures are captured with a batch-1 example, stay dynamic, run like the model, and lower to ``onnx:float``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fxpress_backends.artifact import lower
from fxpress_ir import capture
from torch import Tensor

from .architectures import ARCHITECTURES, architecture


def tensors(output: Any) -> list[Tensor]:
    """The tensors of a model's output, in order."""
    return [value for value in torch.utils._pytree.tree_leaves(output) if isinstance(value, Tensor)]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_is_captured_and_lowered(name: str, tmp_path: Path) -> None:
    model, taken = architecture(name)
    program = capture(model, taken.inputs(1), dynamic_shapes=taken.dynamic_shapes)
    artifact = lower(program, "onnx:float", tmp_path / "out")
    for batch in (1, 3):
        inputs = taken.inputs(batch, seed=batch)
        with torch.no_grad():
            expected = tensors(model(*inputs))
        results = program.run(*inputs)
        assert len(results) == len(expected)
        for wanted, found, lowered in zip(expected, results, artifact.run(*inputs), strict=True):
            bound = 1e-4 * float(wanted.abs().max())
            torch.testing.assert_close(found, wanted, rtol=0, atol=bound)  # the same kernels, another order at most
            assert np.abs(lowered - wanted.numpy()).max() <= bound
