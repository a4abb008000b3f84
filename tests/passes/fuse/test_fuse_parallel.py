"""Layers beside each other become one in floats; fused nets quantise and lower, with the same bits on every target."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import fxpress as fx
import numpy as np
import pytest
import torch
from encoder import encoder_program
from float_programs import applied, captured, operators, refusals, sample, untouched
from fusible import fusible_program
from fxpress_ir import Program, capture
from fxpress_passes import Context
from fxpress_passes.fuse.fuse_parallel import FuseParallel
from fxpress_passes.latency import TimeRatio
from fxpress_passes.pipeline import Pipeline
from torch import Tensor, nn
from torch.nn import functional


class Branches(nn.Module):
    """Layers that read one value, for every case; `body` puts some of them together."""

    def __init__(self, body: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = body
        self.gate, self.up, self.bare = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 3, bias=False)
        self.three, self.more, self.one = nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(6, 5, 3, padding=1, bias=False), nn.Conv2d(6, 4, 1)
        self.same = nn.ModuleList(nn.Conv2d(6, count, 3, padding="same") for count in (4, 3))
        self.depthwise = nn.ModuleList(nn.Conv2d(6, 6, 3, groups=6) for _ in range(2))
        self.line, self.other = nn.Conv1d(6, 4, 3), nn.Conv1d(6, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def net(body: Callable[[Any, Tensor], Tensor], *shape: int) -> Program:
    return captured(Branches(body), *shape)


ROWS, IMAGE = (2, 3, 6), (2, 6, 5, 4)


@pytest.mark.parametrize(
    ("body", "shape", "rows"),
    [
        (lambda m, x: functional.silu(m.gate(x)) * m.up(x), ROWS, 16),
        (lambda m, x: torch.cat([m.gate(x), m.bare(x)], -1), ROWS, 11),
        (lambda m, x: torch.cat([m.three(x).relu(), m.more(x)], 1), IMAGE, 9),
        (lambda m, x: torch.cat([layer(x) for layer in m.same], 1), IMAGE, 7),
        (lambda m, x: m.line(x).relu() + m.other(x), (2, 6, 9), 8),
    ],
    ids=["gate and up", "one bias", "convolutions", "same", "1d"],
)
def test_before_and_expected(body: Callable[[Any, Tensor], Tensor], shape: tuple[int, ...], rows: int) -> None:
    before = net(body, *shape)
    after = applied(FuseParallel(), before)
    found = [name for name in operators(after) if name.startswith(("aten.linear", "aten.conv"))]
    assert len(found) == 1
    assert rows in [len(tensor) for name, tensor in after.tensors.items() if name.endswith("weight.joined")]
    assert operators(after).count("aten.slice.Tensor") == 2
    assert FuseParallel().apply(after, Context()) is after


def test_sizes_stay_dynamic() -> None:
    shapes = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=2)},)
    program = capture(Branches(lambda m, x: m.gate(x) * m.up(x)).eval(), (torch.zeros(2, 3, 6),), dynamic_shapes=shapes)
    after = FuseParallel().apply(program, Context())
    for size in ((1, 2), (3, 7)):
        x = torch.randn(*size, 6)
        torch.testing.assert_close(after.run(x)[0], program.run(x)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("body", "shape", "reason"),
    [
        (lambda m, x: m.three(x) + m.one(x), IMAGE, None),
        (lambda m, x: m.depthwise[0](x) + m.depthwise[1](x), IMAGE, "its 6 groups would not lie side by side"),
        (lambda m, x: m.gate(x) + m.gate(x).relu(), ROWS, "its weight is read elsewhere too, so it would be stored twice"),
        (
            lambda m, x: functional.linear(x, m.gate.weight * 2) + functional.linear(x, m.up.weight * 2),
            ROWS,
            "its weight or bias is computed",
        ),
    ],
    ids=["kernel sizes", "depthwise", "one weight", "computed"],
)
def test_what_cannot_be_computed_at_once_stays(body: Callable[[Any, Tensor], Tensor], shape: tuple[int, ...], reason: str | None) -> None:
    program, context = net(body, *shape), Context()
    with untouched(program):
        assert FuseParallel().apply(program, context) is program
    assert {refusal.split(": ")[1].split("; ")[0] for refusal in refusals(context)} == ({reason} if reason else set())


def test_the_pipelines_guard_is_asked() -> None:
    class Measured:
        def ratio(self, program: Program, parent: Program) -> TimeRatio:
            return TimeRatio(1.1, 1.0, 1.2)

    program = encoder_program()
    result = Pipeline([FuseParallel()]).run(program, latency=Measured())
    assert result.program is program
    (refusal,) = result.report.steps[0].refusals
    assert refusal.node == "aten.linear.default: [16, 16] + [16, 16] + [16, 16]"


FUSIONS = "fuse-affine, fuse-pad, fuse-linear, fuse-parallel, quantize-dyadic{integer_only=true, input_floor=0}, fuse-parallel-integer"


@lru_cache
def everything() -> Program:
    program = fusible_program()
    result = Pipeline.parse(FUSIONS).run(program, calibration=[sample(program, 8, seed) for seed in range(4)])
    fired = {step.name for step in result.report.steps if step.fired}
    assert {"fuse-affine", "fuse-pad", "fuse-linear", "fuse-parallel"} <= fired
    return result.program


BUILT = ("tvm:native", "tvm:x86-64")
"""Builds are slow, and every operator of this net has a build of its own among the tests of TVM."""
TARGETS = [*("reference", "onnx:int", "onnx:qlinear"), *(pytest.param(target, marks=pytest.mark.slow) for target in BUILT)]


@pytest.mark.parametrize("target", TARGETS)
def test_a_net_of_all_fusions_has_the_same_bits_on_every_target(target: str, tmp_path: Path) -> None:
    program = everything()
    artifact = fx.lower(program, target, out=tmp_path / "model")
    for batch in (1, 3):
        inputs = sample(program, batch, seed=batch)
        np.testing.assert_array_equal(artifact.run(*inputs)[0], program.run(*inputs)[0].numpy())
