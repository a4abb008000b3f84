"""A pass asks what a program takes on a target; what the answer means is the pass's business."""

from __future__ import annotations

import fxpress as fx
import pytest
import torch
from fxpress_ir.errors import BackendError, BenchError
from torch import nn


def _program() -> fx.Program:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    return fx.capture(model, (torch.zeros(1, 8),), dynamic_shapes={"input": {0: fx.Dim("batch")}})


def test_a_pass_gets_seconds() -> None:
    asked: list[float] = []

    def remembered(program: fx.Program) -> float:
        asked.append(fx.latency_on("onnx:float", repeats=30, threads=1)(program))
        return asked[-1]

    fx.Pipeline([fx.passes.PruneChannels(latency=remembered)]).run(_program())
    assert len(asked) == 2
    assert all(0 < seconds < 1 for seconds in asked)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(BackendError):
        fx.latency_on("onnx:nothing")(_program())
    with pytest.raises(BenchError, match="too few for a claim"):
        fx.latency_on("onnx:float", repeats=3)(_program())
