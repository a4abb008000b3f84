"""A recipe's passes are measured on a target, by what the rest of the recipe makes of a program; what is not faster is not taken."""

from __future__ import annotations

from pathlib import Path

import fxpress as fx
import fxpress.never_slower
import pytest
import torch
from fxpress.compress import compress
from fxpress.model_source import Source
from fxpress.never_slower import asks_latency, latency_for, sizes_of
from fxpress.recipe import Recipe
from fxpress_backends.registry import find
from fxpress_ir.errors import BackendError, PipelineError
from fxpress_passes import PASSES
from fxpress_passes.latency import TimeRatio
from fxpress_passes.pipeline import Pipeline
from torch import nn


def _source() -> Source:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4)).eval()
    x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    return Source("net", model, (x[:1],), {"input": {0: fx.Dim("batch")}}, calibration=[(x,)])


RECIPE = Recipe(
    Pipeline.parse("prune-channels{ratio=0.5}, recover{steps=1}, fold-batch-norm, quantize-dyadic"), targets=("reference", "onnx:float")
)


class Answer:
    """In place of `latency_on`: notes what it was asked for, gives one ratio."""

    def __init__(self, ratio: float) -> None:
        self.found, self.asked = TimeRatio(ratio, ratio, ratio), list[tuple[str, dict[str, object]]]()

    def __call__(self, target: str, **options: object) -> Answer:
        self.asked.append((target, options))
        return self

    def ratio(self, program: fx.Program, parent: fx.Program) -> TimeRatio:
        return self.found


@pytest.mark.parametrize(("ratio", "parameters"), [(0.8, 4 * 9 * 3), (1.2, 8 * 9 * 3)])
def test_compress_takes_what_is_faster(ratio: float, parameters: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answer = Answer(ratio)
    monkeypatch.setattr(fxpress.never_slower, "latency_on", answer)
    done = compress(_source(), RECIPE, tmp_path, never_slower="reference")
    assert done.program.stage == "integer"
    assert next(v for name, v in done.program.tensors.items() if v.dim() == 4).numel() == parameters
    assert f"made smaller it takes {ratio:.3f} of its parent's time" in str(done.report)
    assert ("it stays as it was" in str(done.report)) == (ratio > 1)
    ((target, options),) = answer.asked
    assert target == "reference"
    assert options["sizes"] == {"batch": 1}
    rest = str(options["pipeline"])
    assert rest.startswith("fold-batch-norm, ")
    assert rest.endswith(", place-quantizers, to-integer")
    assert "recover" not in rest
    assert options["calibration"] is not None


def test_nothing_is_measured_unless_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fxpress.never_slower, "latency_on", lambda *_, **__: pytest.fail("it measures"))
    compress(_source(), RECIPE, tmp_path)


def test_a_float_target_gets_the_program_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Answer(1.0)
    monkeypatch.setattr(fxpress.never_slower, "latency_on", answer)
    latency_for(RECIPE.pipeline, find("onnx:float")[1], None, {"batch": 2})
    assert answer.asked == [("onnx:float", {"sizes": {"batch": 2}})]


@pytest.mark.parametrize(
    ("pipeline", "target", "what"),
    [
        ("fold-batch-norm, quantize-dyadic", "onnx:float", "never-slower: no pass of the pipeline measures whether it makes"),
        ("sparsify", "onnx:float", "never-slower: no pass of the pipeline measures whether it makes"),
        ("prune-heads", "onnx:int", "never-slower: target 'onnx:int' takes integer and mixed programs, the pipeline makes none"),
    ],
)
def test_where_there_is_nothing_to_hold(pipeline: str, target: str, what: str) -> None:
    with pytest.raises(PipelineError, match=what):
        latency_for(Pipeline.parse(pipeline), find(target)[1], None, {})


def test_an_unknown_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="onnx:nothing"):
        compress(_source(), RECIPE, tmp_path, never_slower="onnx:nothing")


def test_which_passes_are_held() -> None:
    held = {kind.name for kind in PASSES if asks_latency(kind())}
    assert held >= {"prune-blocks", "prune-width", "prune-heads", "prune-channels", "factorize"}
    assert held.isdisjoint({"sparsify", "recover", "fold-batch-norm", "quantize-dyadic"})


def test_sizes_are_those_of_one_sample() -> None:
    class Sum(nn.Module):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return ids * mask

    x = torch.ones(4, 7)
    shapes = {0: fx.Dim("batch"), 1: fx.Dim("seq", min=2, max=32)}
    program = fx.capture(Sum(), (x, x), dynamic_shapes={"ids": shapes, "mask": shapes})
    assert sizes_of(program, (x, x)) == {"batch": 1, "seq": 7}
