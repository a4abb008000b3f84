"""benchmarks/latency_model.py: sums of the dense and the half program, a prediction of the last, each beside what `bench` says."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import fxpress as fx
import fxpress.costs.measured as measured
import latency_model
import numpy as np
import torch
from fxpress.costs.work import Measure
from fxpress_backends.latency import Table
from fxpress_backends.profile import RUNTIME, KernelTime, signatures
from latency_model import HEAD, Options, Recipe, rows, variants
from torch import Tensor, nn

CHANNELS = "prune-channels{{macs={}, align=4}}"


class Small:
    """As a model of `latency_cpu`."""

    ids = False

    def inputs(self, batch: int, seed: int) -> tuple[Tensor]:
        return (torch.randn(batch, 3, 12, 12, generator=torch.Generator().manual_seed(seed)),)

    def capture(self) -> fx.Program:
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(), nn.Conv2d(24, 24, 3), nn.ReLU()]
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)).eval()
        return fx.capture(model, self.inputs(1, 0), dynamic_shapes={"input": {0: fx.Dim("batch")}})


def _profiled(program: fx.Program, target: str, *, sizes: Mapping[str, int], **_: Any) -> tuple[KernelTime, ...]:
    """A group takes as many nanoseconds as it has multiply-accumulates, and 1 us; the runtime 10 us."""
    measure = Measure(program, sizes)
    kernels = [
        KernelTime("kernel", nodes, signature, 1e-6 + 1e-9 * measure.work(nodes).macs)
        for nodes, signature in signatures(program, target, sizes)
    ]
    return (*kernels, KernelTime(RUNTIME, (), RUNTIME, 1e-5))


def _benched(artifacts: list[fx.Artifact], **_: Any) -> Table:
    """Each takes a millisecond."""
    return Table(tuple(artifact.folder.name for artifact in artifacts), np.full((len(artifacts), 6, 5), 1e-3), (None,) * len(artifacts))


def test_three_programs_stand_beside_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "profile", _profiled)
    monkeypatch.setattr(fx, "bench", _benched)
    programs = variants(Small(), Recipe("remove-noops", CHANNELS.format(0.5), CHANNELS.format(0.25)))
    assert programs[0].macs == 1 > 0.55 > programs[1].macs > 0.3 > programs[2].macs
    found = [dict(zip(HEAD, cells, strict=True)) for cells in rows("small", Small(), programs, "onnx:qlinear", Options(2, 5, 1, True))]
    assert [row["program"] for row in found] == ["dense", "half", "least, predicted"]
    assert [row["groups"] == row["known"] for row in found] == [True, True, False]
    for row, variant in zip(found, programs, strict=True):
        macs = variant.program.cost(batch=1).macs
        assert row["sum"] == f"{(macs * 1e-9 + int(row['groups']) * 1e-6 + 1e-5) * 1e3:.2f} ms"
        assert row["measured"] == "1.00 ms (1.00 to 1.00)"
        assert float(row["error"].split("%")[0]) == pytest.approx((float(row["sum"].split()[0]) - 1) * 100, abs=0.6)


def test_the_page_has_a_place_for_the_table() -> None:
    assert any("<!-- latency-model -->" in page.read_text() for page in latency_model.readme.PAGES)
